#include "shm/block_pool.h"

#include <algorithm>
#include <bit>
#include <new>

namespace forge::shm {

namespace bip = boost::interprocess;

BlockPool::BlockPool(std::byte* base, std::size_t capacity, std::size_t reserved, Reserve reserve)
    : base_(base),
      capacity_(capacity),
      reserved_(reserved),
      reserve_(std::move(reserve)),
      heap_(bip::create_only, base, reserved),
      page_shift_((capacity >> kPageShift) + 2, kLarge) {}

std::optional<std::uint64_t> BlockPool::allocate(std::size_t size) {
  if (size > (std::size_t{1} << kMaxShift)) {
    const auto offset = allocate_large(size, 64);
    if (offset) used_ += heap_.get_segment_manager()->size(at(*offset));
    return offset;
  }
  const auto shift =
      std::max<std::size_t>(kMinShift, std::bit_width(std::max<std::size_t>(size, 1) - 1));
  if (free_[shift].empty() && !refill(shift)) return std::nullopt;
  const std::uint64_t offset = free_[shift].back();
  free_[shift].pop_back();
  used_ += std::size_t{1} << shift;
  return offset;
}

void BlockPool::free(std::uint64_t offset) {
  if (const std::uint8_t shift = page_shift_[page_of(offset)]; shift != kLarge) {
    free_[shift].push_back(offset);
    used_ -= std::size_t{1} << shift;
    return;
  }
  used_ -= heap_.get_segment_manager()->size(at(offset));
  heap_.deallocate(at(offset));
}

std::size_t BlockPool::page_of(std::uint64_t offset) const {
  // Pages are aligned by address, and base_ need not be.
  const auto base = reinterpret_cast<std::uintptr_t>(base_);
  return ((base + offset) >> kPageShift) - (base >> kPageShift);
}

std::optional<std::uint64_t> BlockPool::allocate_large(std::size_t size, std::size_t alignment) {
  if (size > capacity_) return std::nullopt;
  for (;;) {
    void* block = heap_.allocate_aligned(size, alignment, std::nothrow);
    if (block != nullptr) return static_cast<std::uint64_t>(static_cast<std::byte*>(block) - base_);
    if (!grow(size + alignment)) return std::nullopt;
  }
}

bool BlockPool::refill(std::size_t shift) {
  // Pages are aligned to their size, so an offset tells its page; a page keeps its class for good
  // (bounded by the peak of that class).
  constexpr std::size_t kPageSize = std::size_t{1} << kPageShift;
  const auto page = allocate_large(kPageSize, kPageSize);
  if (!page) return false;
  page_shift_[page_of(*page)] = static_cast<std::uint8_t>(shift);
  auto& list = free_[shift];
  const std::size_t blocks = kPageSize >> shift;
  list.reserve(list.size() + blocks);
  for (std::size_t i = blocks; i-- > 0;) list.push_back(*page + (i << shift));
  return true;
}

bool BlockPool::grow(std::size_t wanted) {
  if (!reserve_ || reserved_ >= capacity_) return false;
  const std::size_t step = std::max(kGrowth, (wanted + kGrowth) / kGrowth * kGrowth);
  std::size_t target = std::min(capacity_, reserved_ + step);
  if (!reserve_(target)) return false;
  heap_.grow(target - reserved_);
  reserved_ = target;
  return true;
}

}  // namespace forge::shm
