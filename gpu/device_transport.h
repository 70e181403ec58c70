// DeviceTransport: what carries the collectives of a replica's ranks on device memory.
#pragma once

#include <forge/tensor.h>

#include <cstddef>
#include <span>

#include "gpu/group_file.h"

namespace forge::gpu {

/// As forge::Group, but spans are device memory, which is only handed on. What was put into the
/// stream before comes first, and all is done when a collective returns. Empty spans are allowed.
class DeviceTransport {
 public:
  DeviceTransport(const DeviceTransport&) = delete;
  DeviceTransport& operator=(const DeviceTransport&) = delete;
  virtual ~DeviceTransport() = default;

  virtual void broadcast(DType dtype, std::span<std::byte> bytes, int root) = 0;
  virtual void all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) = 0;
  /// `all` has room for `mine` of every rank.
  virtual void all_gather(DType dtype, std::span<const std::byte> mine,
                          std::span<std::byte> all) = 0;

 protected:
  DeviceTransport() = default;
};

}  // namespace forge::gpu
