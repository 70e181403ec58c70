#include "replicas/request_source.h"

#include <forge/error.h>

#include <algorithm>
#include <utility>

namespace forge::replicas {

struct RequestSource::Storage final : Arrival {
  Storage(RequestSource& owner, std::span<const std::byte> bytes) : source(&owner) {
    data = const_cast<std::byte*>(bytes.data());  // frozen, and the mapping is read-only anyway
    size = bytes.size();
    frozen.store(true, std::memory_order_relaxed);
    whole = bytes;
  }
  std::span<const gpu::HostPiece> pieces() const override {
    return parts.empty() ? std::span(&whole, 1) : std::span(parts);
  }
  void move_to(std::byte* at, DeviceLane& on, std::shared_ptr<void> memory) override {
    data = at;
    device = on.ordinal();
    lane = &on;
    device_memory = std::move(memory);
    source = nullptr;
  }
  /// The actor kept the tensor: give it bytes of its own before the arena's are used again.
  void detach() {
    own = std::make_unique<std::byte[]>(size);
    std::byte* to = own.get();
    for (const gpu::HostPiece piece : pieces()) to = std::ranges::copy(piece, to).out;
    data = own.get();
    source = nullptr;
  }
  std::shared_ptr<TensorStorage> widened(std::size_t bytes) override {
    return source == nullptr ? nullptr : source->keep({data, bytes});
  }
  std::shared_ptr<TensorStorage> joined(std::span<const gpu::HostPiece> pieces) override {
    if (lane != nullptr) return lane->join_pieces(pieces);
    return source == nullptr || !source->to_device_ ? nullptr : source->keep_joined(pieces);
  }
  RequestSource* source;  // while the arena's bytes are ours to read
  std::unique_ptr<std::byte[]> own;
  gpu::HostPiece whole;                 // in the arena
  std::vector<gpu::HostPiece> parts;    // instead, if it is put together
  std::shared_ptr<void> device_memory;  // from move_to() on, as is the lane
  DeviceLane* lane = nullptr;
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

void RequestSource::arrivals(std::vector<Arrival*>& list) const {
  if (!to_device_) return;
  for (const auto& storage : given_) {
    if (storage.use_count() > 1) list.push_back(storage.get());
  }
}

void RequestSource::let_go() {
  std::erase_if(given_, [](const auto& storage) { return storage->device >= 0; });
}

void RequestSource::end() {
  for (auto& storage : given_) {
    if (storage.use_count() > 1 && storage->device < 0) storage->detach();
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

/// Its data is never read as a whole before it lies on the device.
std::shared_ptr<detail::TensorStorage> RequestSource::keep_joined(
    std::span<const gpu::HostPiece> pieces) {
  const auto& storage = given_.emplace_back(std::make_shared<Storage>(*this, pieces.front()));
  storage->parts.assign(pieces.begin(), pieces.end());
  storage->size = 0;
  for (const gpu::HostPiece piece : pieces) storage->size += piece.size();
  return storage;
}

std::shared_ptr<detail::TensorStorage> RequestSource::keep(std::span<const std::byte> bytes) {
  return given_.emplace_back(std::make_shared<Storage>(*this, bytes));
}

}  // namespace forge::replicas
