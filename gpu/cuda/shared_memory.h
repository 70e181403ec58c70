// Device memory that other processes open.
#pragma once

#include <forge/result.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "gpu/backend.h"
#include "gpu/cuda/device.h"

namespace forge::gpu::cuda {

class SharedMemory {
 public:
  explicit SharedMemory(std::shared_ptr<Device> device);

  // As Backend says.
  Result<std::unique_ptr<Buffer>> allocate(std::size_t bytes);
  Result<IpcHandle> handle_of(const Buffer& buffer);
  Result<std::unique_ptr<Buffer>> open(const IpcHandle& handle);

 private:
  class Block;
  class OwnBuffer;
  class OpenedBuffer;

  std::shared_ptr<Device> device_;
  std::uint64_t process_;  // a random number: numbers of processes may be those of another space
  /// Our own, by address: CUDA opens no handle in the process that made it.
  std::map<std::uint64_t, std::weak_ptr<Block>> blocks_;
};

}  // namespace forge::gpu::cuda
