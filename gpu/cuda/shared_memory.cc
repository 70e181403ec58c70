#include "gpu/cuda/shared_memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <utility>

namespace forge::gpu::cuda {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kKindCuda = 2;
/// The driver shares whole pages of this size; with smaller blocks, memory of others would be
/// opened together with ours.
constexpr std::size_t kSharedPage = std::size_t{2} << 20;

static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(IpcHandle::native));

std::uint64_t random_number() {
  std::random_device random;
  return std::uint64_t{random()} << 32 | random();
}

}  // namespace

/// Memory of this process.
class SharedMemory::Block {
 public:
  Block(std::shared_ptr<Device> device, void* data, std::size_t size)
      : device_(std::move(device)), data_(data), size_(size) {
    device_->count_shared(size_);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    device_->discount_shared(size_);
    if (data_ == nullptr || !device_->healthy()) return;
    (void)device_->check(cudaFree(data_), "freeing shared memory");
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::size_t size() const { return size_; }

 private:
  std::shared_ptr<Device> device_;
  void* data_;
  std::size_t size_;
};

class SharedMemory::OwnBuffer final : public Buffer {
 public:
  OwnBuffer(std::shared_ptr<Block> block, std::size_t size)
      : Buffer(block->data(), size), block_(std::move(block)) {}

 private:
  std::shared_ptr<Block> block_;
};

class SharedMemory::OpenedBuffer final : public Buffer {
 public:
  OpenedBuffer(std::shared_ptr<Device> device, std::byte* data, std::size_t size)
      : Buffer(data, size), device_(std::move(device)) {}
  ~OpenedBuffer() override {
    if (!device_->healthy()) return;
    (void)device_->check(cudaIpcCloseMemHandle(device_data()), "closing shared memory");
  }

 private:
  std::shared_ptr<Device> device_;
};

SharedMemory::SharedMemory(std::shared_ptr<Device> device)
    : device_(std::move(device)), process_(random_number()) {}

Result<std::unique_ptr<Buffer>> SharedMemory::allocate(std::size_t bytes) {
  if (Status status = device_->enter(); !status.ok()) return make_error(status);
  if (bytes > device_->info().memory) return make_error(device_->short_of(bytes));
  const std::size_t size =
      (std::max<std::size_t>(bytes, 1) + kSharedPage - 1) / kSharedPage * kSharedPage;
  void* data = nullptr;
  const cudaError_t result = cudaMalloc(&data, size);
  Status status = device_->check(result, "allocating shared memory");
  if (result == cudaErrorMemoryAllocation) return make_error(device_->short_of(size));
  if (!status.ok()) return make_error(status);
  auto block = std::make_shared<Block>(device_, data, size);
  std::erase_if(blocks_, [](const auto& entry) { return entry.second.expired(); });
  blocks_[reinterpret_cast<std::uintptr_t>(data)] = block;
  return std::make_unique<OwnBuffer>(std::move(block), bytes);
}

Result<IpcHandle> SharedMemory::handle_of(const Buffer& buffer) {
  if (Status status = device_->enter(); !status.ok()) return make_error(status);
  const auto address = reinterpret_cast<std::uintptr_t>(buffer.device_data());
  const auto found = blocks_.find(address);
  if (dynamic_cast<const OwnBuffer*>(&buffer) == nullptr || found == blocks_.end()) {
    return make_error({ErrorCode::invalid_argument,
                       "exporting device memory: only what allocate_shared() of this process gave "
                       "can be opened by others"});
  }
  cudaIpcMemHandle_t native{};
  if (Status status = device_->check(cudaIpcGetMemHandle(&native, buffer.device_data()),
                                     "exporting shared memory");
      !status.ok()) {
    return make_error(status);
  }
  IpcHandle handle{.version = kVersion,
                   .kind = kKindCuda,
                   .process = process_,
                   .size = buffer.size(),
                   .address = address};
  std::memcpy(handle.native.data(), &native, sizeof(native));
  return handle;
}

Result<std::unique_ptr<Buffer>> SharedMemory::open(const IpcHandle& handle) {
  if (handle.version != kVersion || handle.kind != kKindCuda) {
    return make_error({ErrorCode::invalid_argument,
                       "shared device memory: this is no handle of the CUDA backend; export and "
                       "import must be done by backends of one kind"});
  }
  if (Status status = device_->enter(); !status.ok()) return make_error(status);
  if (handle.process == process_) {
    const auto found = blocks_.find(handle.address);
    auto block = found == blocks_.end() ? nullptr : found->second.lock();
    if (!block || handle.size > block->size()) {
      return make_error({ErrorCode::unavailable,
                         "shared device memory: it has been dropped; the buffer must be kept until "
                         "all who opened it have dropped it"});
    }
    return std::make_unique<OwnBuffer>(std::move(block), handle.size);
  }
  cudaIpcMemHandle_t native{};
  std::memcpy(&native, handle.native.data(), sizeof(native));
  void* data = nullptr;
  if (Status status = device_->check(
          cudaIpcOpenMemHandle(&data, native, cudaIpcMemLazyEnablePeerAccess),
          "opening shared memory of another process; its owner must keep it, and see this device");
      !status.ok()) {
    return make_error(status);
  }
  return std::make_unique<OpenedBuffer>(device_, static_cast<std::byte*>(data), handle.size);
}

}  // namespace forge::gpu::cuda
