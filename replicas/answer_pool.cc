#include "replicas/answer_pool.h"

#include <forge/error.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace forge::replicas {
namespace {
constexpr std::size_t kFirstReserve = 256 * 1024;
}

/// A tensor born in answer memory. The pool outlives all actors, and with them all their tensors.
struct AnswerPool::Storage final : detail::TensorStorage {
  Storage(AnswerPool& owner, std::uint64_t offset, std::size_t bytes) : pool(owner) {
    data = owner.file_.data() + offset;
    size = bytes;
    home = &owner;
    home_offset = offset;
  }
  ~Storage() override { pool.give_back(home_offset); }
  AnswerPool& pool;
};

AnswerPool::AnswerPool(shm::Segment& file, const std::uint64_t* releases,
                       const shm::RingIndex& tail, shm::RingIndex& head)
    : file_(file), releases_(releases, shm::kReleases, tail, head) {}

std::optional<std::uint64_t> AnswerPool::take(std::size_t size) {
  if (held_) {
    const Held held = *std::exchange(held_, std::nullopt);
    if (held.size == size) return held.offset;
    give_back(held.offset);
  }
  const std::lock_guard lock(mutex_);
  refused_ = false;
  if (!pool_) {
    const std::size_t first = std::min(kFirstReserve, capacity());
    if (capacity() < kFirstReserve / 4 || !reserve(first)) return std::nullopt;
    pool_.emplace(file_.data() + shm::kAnswersOffset, capacity(), first,
                  [this](std::size_t bytes) { return reserve(bytes); });
  }
  const auto offset = pool_->allocate(size);
  if (!offset) return std::nullopt;
  return *offset + shm::kAnswersOffset;
}

bool AnswerPool::reserve(std::size_t bytes) {
  refused_ = !file_.reserve(shm::kAnswersOffset + bytes);
  if (refused_) return false;
  // Whole pages: what is pinned must not share one with what is pinned next.
  const std::size_t end = std::min(shm::page_up(bytes), capacity());
  if (pin_ && end > reserved_) {
    pin_({file_.data() + shm::kAnswersOffset + reserved_, end - reserved_});
  }
  reserved_ = std::max(reserved_, end);
  return true;
}

void AnswerPool::pin_with(std::function<void(std::span<const std::byte>)> pin) {
  const std::lock_guard lock(mutex_);
  pin_ = std::move(pin);
  if (reserved_ != 0) pin_({file_.data() + shm::kAnswersOffset, reserved_});
}

void AnswerPool::give_back(std::uint64_t offset) {
  const std::lock_guard lock(mutex_);
  pool_->free(offset - shm::kAnswersOffset);
}

bool AnswerPool::hold(std::size_t size) {
  collect();
  const auto offset = take(size);
  if (offset) held_ = Held{*offset, size};
  return offset.has_value();
}

bool AnswerPool::could_hold(std::size_t size) const {
  return size <= shm::BlockPool::largest_of(capacity());
}

bool AnswerPool::collect() {
  bool any = false;
  while (const std::uint64_t* offset = releases_.front()) {
    give_back(*offset);
    residents_.erase(*offset);
    releases_.pop();
    any = true;
  }
  return any;
}

std::size_t AnswerPool::needed(detail::Writer& answer) {
  const bool fits = answer.head().size() <= shm::kInlineAnswer && !answer.has_blobs() &&
                    answer.residents().empty();
  return fits ? 0 : answer.block_size();
}

void AnswerPool::write(detail::Writer& answer, shm::ResponseSlot& slot) {
  const auto head = answer.head();
  slot.head_size = static_cast<std::uint32_t>(head.size());
  auto& residents = answer.residents();
  const std::size_t size = needed(answer);
  if (size == 0) {
    slot.block = 0;
    slot.block_size = 0;
    std::memcpy(slot.answer, head.data(), head.size());
    return;
  }
  collect();
  const auto block = take(size);
  if (!block) throw_no_room(size);
  answer.write_to(file_.data() + *block);
  slot.block = *block;
  slot.block_size = size;
  const std::lock_guard lock(mutex_);
  if (!residents.empty()) {
    // Whoever gets the answer reads these bytes as long as it likes.
    for (const Tensor& tensor : residents)
      tensor.storage()->frozen.store(true, std::memory_order_relaxed);
    residents_.emplace(*block, std::move(residents));
    residents.clear();
  } else if (pool_->used() > capacity() / 4 * 3) {
    slot.flags |= shm::kCopyOut;
  }
}

void AnswerPool::throw_no_room(std::size_t size) const {
  const std::string text = "an answer of " + std::to_string(size) + " bytes ";
  if (!could_hold(size))
    throw PayloadTooLarge(text + "does not fit the worker's answer memory of " +
                          std::to_string(capacity()) + "; raise arena_bytes");
  if (refused_)
    throw Unavailable(text +
                      "found no shared memory left in the system; free some or raise its limit");
  throw Backpressure(text + "found the worker's answer memory of " + std::to_string(capacity()) +
                     " full of answers that the program has fetched and still holds, or of tensors "
                     "that the actor keeps; drop them or raise arena_bytes");
}

void AnswerPool::discard(const shm::ResponseSlot& slot) {
  if (slot.block == 0) return;
  give_back(slot.block);
  residents_.erase(slot.block);
}

Tensor AnswerPool::allocate_here(DType dtype, std::span<const std::int64_t> shape) {
  const std::size_t bytes = detail::byte_size(dtype, shape);
  collect();
  const auto offset = take(bytes);
  if (!offset) throw_no_room(bytes);
  return Tensor::adopt(std::make_shared<Storage>(*this, *offset, bytes), dtype, shape);
}

Tensor AnswerPool::allocate(DType dtype, std::span<const std::int64_t> shape) {
  const std::size_t bytes = detail::byte_size(dtype, shape);
  collect();
  if (const auto offset = take(bytes)) {
    return Tensor::adopt(std::make_shared<Storage>(*this, *offset, bytes), dtype, shape);
  }
  return Tensor(dtype, {shape.begin(), shape.end()});
}

}  // namespace forge::replicas
