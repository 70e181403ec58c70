// Host memory that another process can open by a handle: shared device memory of the host backend.
#pragma once

#include <forge/result.h>

#include <cstddef>
#include <memory>

#include "gpu/backend.h"
#include "shm/file_descriptor.h"

namespace forge::gpu {

class HostSharedBuffer final : public Buffer {
 public:
  /// Zeroed memory of our own; `bytes` may be 0. Error: Unavailable.
  static Result<std::unique_ptr<HostSharedBuffer>> create(std::size_t bytes);
  /// Memory that some process of this user has. Errors as import_buffer() says.
  static Result<std::unique_ptr<HostSharedBuffer>> open(const IpcHandle& handle);
  ~HostSharedBuffer() override;

  Result<IpcHandle> handle() const;

 private:
  HostSharedBuffer(shm::FileDescriptor file, std::byte* data, std::size_t size)
      : Buffer(data, size), file_(std::move(file)) {}
  static Result<std::unique_ptr<HostSharedBuffer>> map(shm::FileDescriptor file, std::size_t bytes);

  shm::FileDescriptor file_;
};

}  // namespace forge::gpu
