// DeviceGroup: the group of a rank that has a device. What lies on the host goes through shared
// memory as everywhere; tensors on the device go over a DeviceTransport.
#pragma once

#include <forge/group.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "gpu/backend.h"
#include "gpu/device_transport.h"
#include "gpu/group.h"

namespace forge::gpu {

/// The transport of devices that tests make up: copies to the host, lets the group do its work
/// there, and copies back.
class StagedTransport final : public DeviceTransport {
 public:
  /// Both outlive it.
  StagedTransport(Group& group, Stream& stream) : group_(group), stream_(stream) {}

  void broadcast(DType dtype, std::span<std::byte> bytes, int root) override;
  void all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) override;
  void all_gather(DType dtype, std::span<const std::byte> mine, std::span<std::byte> all) override;

 private:
  void agree(const GroupCall& call);
  void require(Status status);
  std::vector<std::byte> fetch(std::span<const std::byte> device);
  void store(std::span<std::byte> device, std::span<const std::byte> host);

  Group& group_;
  Stream& stream_;
};

class DeviceGroup final : public forge::Group {
 public:
  /// Makes the results of all_gather: memory of the device, ordered as the actor's work is.
  using Allocate = std::function<Tensor(DType dtype, std::span<const std::int64_t> shape)>;

  /// `host` outlives it.
  DeviceGroup(gpu::Group& host, std::unique_ptr<DeviceTransport> transport, Allocate allocate)
      : host_(host), transport_(std::move(transport)), allocate_(std::move(allocate)) {}

  int rank() const override { return host_.rank(); }
  int procs() const override { return host_.procs(); }
  void barrier() override { host_.barrier(); }
  void broadcast(std::span<std::byte> bytes, int root) override { host_.broadcast(bytes, root); }
  void broadcast(Tensor& tensor, int root) override;
  void all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) override {
    host_.all_reduce(dtype, elements, reduction);
  }
  void all_reduce(Tensor& tensor, Reduction reduction) override;
  using forge::Group::all_reduce;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    host_.all_gather(mine, all);
  }
  Tensor all_gather(const Tensor& tensor) override;

 private:
  gpu::Group& host_;
  std::unique_ptr<DeviceTransport> transport_;
  Allocate allocate_;
};

}  // namespace forge::gpu
