#include "shm/block_pool.h"

#include <algorithm>
#include <bit>
#include <new>

#include "shm/prefetch.h"

namespace forge::shm {

namespace bip = boost::interprocess;

namespace {
// Copies between blocks whose addresses differ in their last 12 bits are slower, and devices like
// whole pages; a block this large can spare one.
constexpr std::size_t kPageAlignedFrom = 128 * 1024;
constexpr std::size_t kOsPage = 4096;
}  // namespace

BlockPool::BlockPool(std::byte* base, std::size_t capacity, std::size_t reserved, Reserve reserve)
    : base_(base),
      capacity_(capacity),
      reserved_(reserved),
      reserve_(std::move(reserve)),
      heap_(bip::create_only, base, reserved),
      pages_((capacity >> kPageShift) + 1) {}

std::optional<std::uint64_t> BlockPool::allocate(std::size_t size) {
  if (size > (std::size_t{1} << kMaxShift)) {
    const auto offset = allocate_large(size);
    if (offset) used_ += heap_.get_segment_manager()->size(at(*offset));
    return offset;
  }
  const auto shift =
      std::max<std::size_t>(kMinShift, std::bit_width(std::max<std::size_t>(size, 1) - 1));
  if (free_[shift].empty() && !refill(shift)) return std::nullopt;
  const std::uint64_t offset = free_[shift].back();
  free_[shift].pop_back();
  ++page_of(offset)->live;
  used_ += std::size_t{1} << shift;
  return offset;
}

void BlockPool::free(std::uint64_t offset) {
  if (Page* page = page_of(offset); page != nullptr) {
    free_[page->shift].push_back(offset);
    prefetch_for_write(at(offset), 2 * kCacheLine);  // it is the first to be used again
    --page->live;
    used_ -= std::size_t{1} << page->shift;
    return;
  }
  used_ -= heap_.get_segment_manager()->size(at(offset));
  heap_.deallocate(at(offset));
}

std::optional<std::uint64_t> BlockPool::allocate_large(std::size_t size) {
  if (size > capacity_) return std::nullopt;
  for (;;) {
    void* block = nullptr;
    if (size >= kPageAlignedFrom) block = heap_.allocate_aligned(size, kOsPage, std::nothrow);
    if (block == nullptr) block = heap_.allocate_aligned(size, 64, std::nothrow);
    if (block != nullptr) return static_cast<std::uint64_t>(static_cast<std::byte*>(block) - base_);
    if (!grow(size + 64) && !reclaim()) return std::nullopt;
  }
}

/// The page a small block lies in; nullptr for large blocks. It begins in the block's own 64 KiB or
/// in those before: pages are not aligned, because Boost's headers lie between them.
BlockPool::Page* BlockPool::page_of(std::uint64_t offset) {
  const std::uint64_t cell = offset >> kPageShift;
  Page* page = &pages_[cell];
  if (page->shift != 0 && offset >= page->begin) return page;
  if (cell == 0) return nullptr;
  page = &pages_[cell - 1];
  return page->shift != 0 && offset - page->begin < kPageSize ? page : nullptr;
}

bool BlockPool::refill(std::size_t shift) {
  const auto begin = allocate_large(kPageSize);
  if (!begin) return false;
  pages_[*begin >> kPageShift] = {*begin, 0, static_cast<std::uint8_t>(shift)};
  auto& list = free_[shift];
  const std::size_t blocks = kPageSize >> shift;
  list.reserve(list.size() + blocks);
  for (std::size_t i = blocks; i-- > 0;) list.push_back(*begin + (i << shift));
  return true;
}

/// Gives pages without live blocks back to the heap. False if there are none.
bool BlockPool::reclaim() {
  const auto idle = [](const Page& page) { return page.shift != 0 && page.live == 0; };
  if (std::none_of(pages_.begin(), pages_.end(), idle)) return false;
  for (auto& list : free_) {
    std::erase_if(list, [&](std::uint64_t offset) { return idle(*page_of(offset)); });
  }
  for (Page& page : pages_) {
    if (!idle(page)) continue;
    heap_.deallocate(at(page.begin));
    page = {};
  }
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
