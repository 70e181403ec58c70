#include "replicas/request_source.h"

#include <forge/error.h>

#include <cstring>

namespace forge::replicas {

struct RequestSource::Storage final : detail::TensorStorage {
  Storage(RequestSource& owner, std::span<const std::byte> bytes) : source(&owner) {
    data = const_cast<std::byte*>(bytes.data());  // frozen, and the mapping is read-only anyway
    size = bytes.size();
    frozen.store(true, std::memory_order_relaxed);
  }
  /// The actor kept the tensor: give it bytes of its own before the arena's are used again.
  void detach() {
    own = std::make_unique<std::byte[]>(size);
    std::memcpy(own.get(), data, size);
    data = own.get();
    source = nullptr;
  }
  std::shared_ptr<TensorStorage> widened(std::size_t bytes) override {
    return source == nullptr ? nullptr : source->keep({data, bytes});
  }
  RequestSource* source;  // while the arena's bytes are ours to read
  std::unique_ptr<std::byte[]> own;
};

bool RequestSource::holds(const shm::RequestSlot& request) const {
  return request.block <= arena_.size() && request.block_size <= arena_.size() - request.block &&
         request.head_size <= request.block_size;
}

detail::Reader RequestSource::begin(const shm::RequestSlot& request) {
  const std::span<const std::byte> block(arena_.data() + request.block, request.block_size);
  blobs_ = detail::blobs_of(block, request.head_size);
  return detail::Reader(block.first(request.head_size), blobs_, this);
}

void RequestSource::end() {
  for (auto& storage : given_) {
    if (storage.use_count() > 1) storage->detach();
  }
  given_.clear();
}

Tensor RequestSource::in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                               std::span<const std::int64_t> shape) {
  return view(blobs_, offset, size, dtype, shape);
}

Tensor RequestSource::in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                              std::span<const std::int64_t> shape) {
  return view({arena_.data(), arena_.size()}, offset, size, dtype, shape);
}

Tensor RequestSource::view(std::span<const std::byte> memory, std::uint64_t offset,
                           std::uint64_t size, DType dtype, std::span<const std::int64_t> shape) {
  if (offset > memory.size() || size > memory.size() - offset)
    throw InvalidArgument("a request refers to bytes outside of its memory");
  return Tensor::adopt(keep(memory.subspan(offset, size)), dtype, shape);
}

std::shared_ptr<detail::TensorStorage> RequestSource::keep(std::span<const std::byte> bytes) {
  return given_.emplace_back(std::make_shared<Storage>(*this, bytes));
}

}  // namespace forge::replicas
