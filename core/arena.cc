#include "core/arena.h"

#include <algorithm>
#include <limits>

namespace forge::core {

/// A user's tensor in the arena; may outlive the service.
struct Arena::Storage final : detail::TensorStorage {
  Storage(std::shared_ptr<Arena> owner, std::uint64_t offset, std::size_t bytes)
      : arena(std::move(owner)) {
    data = arena->at(offset);
    size = bytes;
    home = arena.get();
    home_offset = offset;
  }
  ~Storage() override { arena->returned_.put(home_offset); }
  std::shared_ptr<Arena> arena;
};

/// One row of a slab: frozen by itself, and keeps the whole.
struct Arena::Row final : detail::TensorStorage {
  Row(std::shared_ptr<detail::TensorStorage> whole, std::size_t offset, std::size_t bytes)
      : slab(std::move(whole)) {
    data = slab->data + offset;
    size = bytes;
    home = slab->home;
    home_offset = slab->home_offset + offset;
  }
  std::shared_ptr<detail::TensorStorage> slab;
};

Result<std::shared_ptr<Arena>> Arena::create(const std::string& name, std::size_t bytes,
                                             bool sealed) {
  bytes =
      std::min(bytes, std::numeric_limits<std::size_t>::max() / 2);  // more cannot be had anyway
  const std::size_t size = shm::kArenaBlocksOffset + shm::page_up(bytes);
  auto segment = shm::Segment::create(
      {.name = "forge:" + name + ":arena",
       .size = size,
       .reserved = size,
       .writer = sealed ? shm::Writer::creator : shm::Writer::creator_unsealed});
  if (!segment) return segment.error_ptr();
  return std::shared_ptr<Arena>(new Arena(std::move(*segment)));
}

Arena::Arena(shm::Segment segment)
    : segment_(std::move(segment)),
      pool_(segment_.data() + shm::kArenaBlocksOffset, segment_.size() - shm::kArenaBlocksOffset,
            segment_.size() - shm::kArenaBlocksOffset) {
  header().header = shm::make_header(segment_.size(), 0);
}

std::optional<std::uint64_t> Arena::allocate(std::size_t size) {
  take_returned();
  const auto offset = pool_.allocate(size);
  if (!offset) return std::nullopt;
  return *offset + shm::kArenaBlocksOffset;
}

std::optional<Tensor> Arena::allocate_tensor(DType dtype, const std::vector<std::int64_t>& shape,
                                             std::size_t bytes) {
  const auto offset = allocate(bytes);
  if (!offset) return std::nullopt;
  return tensor_at(*offset, dtype, shape, bytes);
}

Tensor Arena::tensor_at(std::uint64_t block, DType dtype, const std::vector<std::int64_t>& shape,
                        std::size_t bytes) {
  return Tensor::adopt(std::make_shared<Storage>(shared_from_this(), block, bytes), dtype, shape);
}

Tensor Arena::row_of(const Tensor& slab, std::size_t index) {
  const auto shape = slab.shape().subspan(1);
  const std::size_t bytes = slab.byte_count() / static_cast<std::size_t>(slab.shape()[0]);
  return Tensor::adopt(std::make_shared<Row>(slab.storage(), index * bytes, bytes), slab.dtype(),
                       shape);
}

std::size_t Arena::used() {
  take_returned();
  return pool_.used();
}

void Arena::take_returned() {
  returned_.take(returning_);
  for (const std::uint64_t offset : returning_) free(offset);
  returning_.clear();
}

void Arena::set_poller(shm::Poller poller) {
  auto& word = header().poller;
  const std::uint32_t now = word.load(std::memory_order_relaxed);
  const auto wanted = static_cast<std::uint32_t>(poller);
  if ((now & ((1U << shm::kPollerBits) - 1)) == wanted) return;
  // Relaxed: who parks fences afterwards; who pushes a request publishes it with release.
  word.store(((now >> shm::kPollerBits) + 1) << shm::kPollerBits | wanted,
             std::memory_order_relaxed);
}

}  // namespace forge::core
