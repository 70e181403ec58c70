// Allocates blocks inside a piece of memory that one process writes and others read.
//
// Owned by the one process that writes the memory: the controller for a service arena, the worker
// for its answers. What it knows is private to that process; nobody else ever reads it, so nothing
// has to be repaired when the other side dies.
//
// Small blocks (up to 32 KiB) come from 64 KiB pages of one power-of-two size each and are recycled
// last-in first-out, so that a block that is still in the cache is used first. Larger ones, and the
// pages, are managed by Boost.Interprocess in place (best fit). Pages without live blocks go back
// to it when nothing else is left.
//
// Invariants
//   B1  offsets are multiples of 64; a block never spans what was not reserved.
//   B2  used() is the sum over live blocks of what each occupies; it is 0 again when all are freed.
// Thread-compatible: callers hold their own lock.
#pragma once

#include <array>
#include <boost/interprocess/indexes/iset_index.hpp>
#include <boost/interprocess/managed_external_buffer.hpp>
#include <boost/interprocess/mem_algo/rbtree_best_fit.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace forge::shm {

class BlockPool {
 public:
  /// Backs the first `bytes` of the pool with memory; false if there is none left.
  using Reserve = std::function<bool(std::size_t bytes)>;

  /// Manages [base, base + capacity), of which `reserved` are backed. Without `reserve` the pool
  /// does not grow beyond `reserved`.
  BlockPool(std::byte* base, std::size_t capacity, std::size_t reserved, Reserve reserve = nullptr);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  /// Offset of a block of at least `size` bytes, aligned to 64; nothing if no memory is left.
  std::optional<std::uint64_t> allocate(std::size_t size);

  /// Precondition: `offset` came from allocate() and is live.
  void free(std::uint64_t offset);

  std::byte* at(std::uint64_t offset) const { return base_ + offset; }
  std::size_t used() const { return used_; }
  std::size_t capacity() const { return capacity_; }
  /// The largest size allocate() could ever serve.
  std::size_t largest() const { return largest_of(capacity_); }
  static constexpr std::size_t largest_of(std::size_t capacity) {
    return capacity > kOverhead ? capacity - kOverhead : 0;
  }

 private:
  static constexpr std::size_t kMinShift = 6;   // 64 B
  static constexpr std::size_t kMaxShift = 15;  // 32 KiB
  static constexpr std::size_t kPageShift = 16;
  static constexpr std::size_t kPageSize = std::size_t{1} << kPageShift;  // 64 KiB
  static constexpr std::size_t kGrowth = std::size_t{1} << 20;
  static constexpr std::size_t kOverhead = 1024;  // Boost's header and one block's bookkeeping
  using Heap = boost::interprocess::basic_managed_external_buffer<
      char,
      boost::interprocess::rbtree_best_fit<boost::interprocess::null_mutex_family,
                                           boost::interprocess::offset_ptr<void>>,
      boost::interprocess::iset_index>;

  /// One page. At most one begins in each 64 KiB of the pool, so that is where it is looked up.
  struct Page {
    std::uint64_t begin = 0;
    std::uint32_t live = 0;  // blocks
    std::uint8_t shift = 0;  // size class of its blocks; 0: no page begins here
  };

  std::optional<std::uint64_t> allocate_large(std::size_t size);
  Page* page_of(std::uint64_t offset);
  bool refill(std::size_t shift);
  bool grow(std::size_t wanted);
  bool reclaim();

  std::byte* base_;
  std::size_t capacity_;
  std::size_t reserved_;
  std::size_t used_ = 0;
  Reserve reserve_;
  Heap heap_;
  std::vector<Page> pages_;  // per 64 KiB of the pool
  std::array<std::vector<std::uint64_t>, kMaxShift + 1> free_;
};

}  // namespace forge::shm
