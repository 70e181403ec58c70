// The block pool: blocks that never overlap, lie only in reserved memory, and are all given back.
#include "shm/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "shm/control_file.h"
#include "tests/random.h"
#include "tests/sanitizer.h"

namespace forge::shm {
namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;

/// Memory whose first byte is `skew` bytes past a multiple of 64 KiB: in real segments the pool
/// starts behind a header, wherever the kernel mapped that.
class Memory {
 public:
  explicit Memory(std::size_t size, std::size_t skew = 0)
      : bytes_(std::make_unique<std::byte[]>(size + skew + 64 * kKiB)) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.get());
    base_ = bytes_.get() + (64 * kKiB - address % (64 * kKiB)) + skew;
  }
  std::byte* base() const { return base_; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::byte* base_;
};

/// Sizes as requests have them: mostly small, some large, sometimes nothing at all.
std::size_t any_size(std::mt19937_64& random) {
  switch (tests::below(random, 8)) {
    case 0:
      return tests::below(random, 3);
    case 1:
    case 2:
    case 3:
      return tests::below(random, 4 * kKiB);
    case 4:
    case 5:
      return tests::below(random, 40 * kKiB);  // past the limit between small and large
    default:
      return tests::below(random, 300 * kKiB);
  }
}

/// A pool, and its user who remembers every block and what was written there.
class Checked {
 public:
  Checked(std::size_t capacity, std::size_t reserved, std::size_t skew)
      : memory_(capacity, skew),
        reserved_(reserved),
        pool_(memory_.base(), capacity, reserved, [this](std::size_t bytes) {
          EXPECT_GT(bytes, reserved_);
          EXPECT_LE(bytes, pool_.capacity());
          if (refuse_) return false;
          reserved_ = bytes;
          return true;
        }) {}

  bool allocate(std::size_t size) {
    const std::size_t used = pool_.used();
    const auto offset = pool_.allocate(size);
    if (!offset) {
      EXPECT_EQ(pool_.used(), used);
      return false;
    }
    EXPECT_EQ(*offset % 64, 0u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pool_.at(*offset)) % 64, 0u);
    EXPECT_LE(*offset, reserved_);
    EXPECT_LE(size, reserved_ - *offset) << "at " << *offset;
    EXPECT_GE(pool_.used(), used + size);
    const auto after = live_.lower_bound(*offset);
    if (after != live_.end()) {
      EXPECT_LE(*offset + size, after->first);
    }
    if (after != live_.begin()) {
      EXPECT_LE(std::prev(after)->first + std::prev(after)->second.size, *offset);
    }
    const auto fill = static_cast<unsigned char>(++allocated_);
    std::memset(pool_.at(*offset), fill, size);
    live_[*offset] = {size, fill};
    return true;
  }

  void free(std::uint64_t offset) {
    const auto found = live_.find(offset);
    const std::byte* bytes = pool_.at(offset);
    EXPECT_TRUE(std::all_of(bytes, bytes + found->second.size,
                            [&](std::byte b) { return b == std::byte{found->second.fill}; }))
        << "somebody wrote into the block at " << offset;
    const std::size_t used = pool_.used();
    pool_.free(offset);
    EXPECT_LE(pool_.used() + found->second.size, used);
    live_.erase(found);
  }
  void free_any(std::mt19937_64& random) {
    const auto block = live_.lower_bound(tests::below(random, pool_.capacity()));
    free(block == live_.end() ? live_.begin()->first : block->first);
  }
  void free_all(std::mt19937_64& random) {
    while (!live_.empty()) free_any(random);
  }

  std::size_t live() const { return live_.size(); }
  std::size_t reserved() const { return reserved_; }
  void refuse(bool refuse) { refuse_ = refuse; }
  BlockPool& pool() { return pool_; }

 private:
  struct Block {
    std::size_t size;
    unsigned char fill;
  };
  Memory memory_;
  std::size_t reserved_;
  bool refuse_ = false;
  std::size_t allocated_ = 0;
  std::map<std::uint64_t, Block> live_;
  BlockPool pool_;
};

// ---- single blocks

TEST(BlockPool, GivesAlignedBlocksThatDoNotOverlap) {
  Checked checked(4 * kMiB, 4 * kMiB, 0);
  for (const std::size_t size : {std::size_t{1}, std::size_t{64}, std::size_t{65}, 4 * kKiB,
                                 32 * kKiB, 32 * kKiB + 1, 64 * kKiB, 1 * kMiB}) {
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(checked.allocate(size)) << size;
  }
}

TEST(BlockPool, GivesABlockEvenForNoBytes) {
  Checked checked(kMiB, kMiB, 0);
  EXPECT_TRUE(checked.allocate(0));
  EXPECT_TRUE(checked.allocate(0));
  EXPECT_GT(checked.pool().used(), 0u);
}

TEST(BlockPool, UsesTheSmallBlockFirstThatWasFreedLast) {
  const Memory memory(kMiB);
  BlockPool pool(memory.base(), kMiB, kMiB);
  const auto first = *pool.allocate(100);
  const auto second = *pool.allocate(100);
  pool.free(second);
  pool.free(first);
  EXPECT_EQ(pool.allocate(120), first);
  EXPECT_EQ(pool.allocate(80), second);
}

TEST(BlockPool, CountsWhatBlocksOccupy) {
  const Memory memory(kMiB);
  BlockPool pool(memory.base(), kMiB, kMiB);
  EXPECT_EQ(pool.used(), 0u);
  const auto small = *pool.allocate(65);
  EXPECT_EQ(pool.used(), 128u);
  const auto large = *pool.allocate(100 * kKiB);
  EXPECT_GE(pool.used(), 128 + 100 * kKiB);
  pool.free(small);
  EXPECT_GE(pool.used(), 100 * kKiB);
  pool.free(large);
  EXPECT_EQ(pool.used(), 0u);
}

TEST(BlockPool, GivesTheLargestBlockThatItPromises) {
  for (const std::size_t skew : {std::size_t{0}, std::size_t{4096}, std::size_t{64}}) {
    for (const std::size_t capacity : {128 * kKiB, kMiB, 16 * kMiB + 4096}) {
      Checked checked(capacity, capacity, skew);
      EXPECT_GT(checked.pool().largest(), capacity - 4 * kKiB);
      EXPECT_TRUE(checked.allocate(checked.pool().largest())) << capacity << " + " << skew;
      EXPECT_FALSE(checked.allocate(64 * kKiB));
    }
  }
}

TEST(BlockPool, RefusesWhatCannotFit) {
  Checked checked(kMiB, kMiB, 0);
  EXPECT_FALSE(checked.allocate(kMiB));
  EXPECT_FALSE(checked.allocate(kMiB + 1));
  EXPECT_FALSE(checked.allocate(~std::size_t{0}));
  EXPECT_FALSE(checked.allocate(~std::size_t{0} - 63));
  EXPECT_TRUE(checked.allocate(kMiB / 2)) << "and is none the worse for it";
}

// ---- fullness

TEST(BlockPool, HoldsAsMuchAgainAfterItWasFull) {
  auto random = tests::seeded();
  for (const std::size_t size :
       {std::size_t{64}, 1 * kKiB, 32 * kKiB, 33 * kKiB, 100 * kKiB, 300 * kKiB}) {
    Checked checked(kMiB, kMiB, 4096);
    std::size_t blocks = 0;
    while (checked.allocate(size)) ++blocks;
    EXPECT_GE(blocks * size, kMiB / 4 * 3) << size;
    for (int round = 0; round < 3; ++round) {
      checked.free_all(random);
      EXPECT_EQ(checked.pool().used(), 0u);
      for (std::size_t i = 0; i < blocks; ++i) ASSERT_TRUE(checked.allocate(size)) << size;
      EXPECT_FALSE(checked.allocate(size)) << size;
    }
  }
}

TEST(BlockPool, MergesLargeBlocksThatWereFreed) {
  auto random = tests::seeded();
  Checked checked(8 * kMiB, 8 * kMiB, 0);
  while (checked.allocate(100 * kKiB)) {
  }
  checked.free_all(random);
  EXPECT_TRUE(checked.allocate(checked.pool().largest()));
}

TEST(BlockPool, GivesTheMemoryOfSmallBlocksToAllOtherSizes) {
  auto random = tests::seeded();
  Checked checked(4 * kMiB, 256 * kKiB, 4096);
  for (const std::size_t size : {std::size_t{64}, 32 * kKiB, 1 * kKiB, 200 * kKiB, 8 * kKiB}) {
    std::size_t blocks = 0;
    while (checked.allocate(size)) ++blocks;
    EXPECT_GE(blocks * size, 3 * kMiB) << size << " after a burst of another size";
    checked.free_all(random);
  }
  EXPECT_TRUE(checked.allocate(checked.pool().largest()));
}

TEST(BlockPool, KeepsThePagesOfLiveBlocksWhenItGivesUpOthers) {
  auto random = tests::seeded();
  Checked checked(4 * kMiB, 4 * kMiB, 4096);
  while (checked.allocate(200)) {
  }
  while (checked.live() > 5) checked.free_any(random);
  EXPECT_TRUE(checked.allocate(300 * kKiB));
  while (checked.allocate(200)) {
  }
  checked.free_all(random);
  EXPECT_EQ(checked.pool().used(), 0u);
}

// ---- growth

TEST(BlockPool, DoesNotGrowWithoutAWayToReserve) {
  const Memory memory(4 * kMiB);
  BlockPool pool(memory.base(), 4 * kMiB, kMiB);
  EXPECT_FALSE(pool.allocate(kMiB));
  EXPECT_TRUE(pool.allocate(kMiB / 2));
  EXPECT_FALSE(pool.allocate(kMiB / 2));
}

TEST(BlockPool, ReservesMoreOnlyWhenItMust) {
  Checked checked(16 * kMiB, 256 * kKiB, 0);
  EXPECT_TRUE(checked.allocate(100 * kKiB));
  EXPECT_EQ(checked.reserved(), 256 * kKiB);
  EXPECT_TRUE(checked.allocate(200 * kKiB));
  EXPECT_GT(checked.reserved(), 256 * kKiB);
  EXPECT_LT(checked.reserved(), 4 * kMiB) << "in steps, not all at once";
  EXPECT_TRUE(checked.allocate(9 * kMiB));
  EXPECT_LE(checked.reserved(), 16 * kMiB);
}

TEST(BlockPool, GrowsToItsWholeCapacity) {
  Checked checked(5 * kMiB + 4096, 256 * kKiB, 4096);
  EXPECT_TRUE(checked.allocate(checked.pool().largest()));
  EXPECT_EQ(checked.reserved(), checked.pool().capacity());
}

TEST(BlockPool, GivesNothingWhileNoMemoryIsLeftAndGoesOnWhenThereIs) {
  auto random = tests::seeded();
  Checked checked(16 * kMiB, 256 * kKiB, 0);
  checked.refuse(true);
  std::size_t before = 0;
  while (checked.allocate(1000)) ++before;
  EXPECT_GT(before, 100u);
  EXPECT_FALSE(checked.allocate(1 * kMiB));
  EXPECT_EQ(checked.reserved(), 256 * kKiB);
  checked.free_any(random);
  EXPECT_TRUE(checked.allocate(1000)) << "what it has is still good";

  checked.refuse(false);
  EXPECT_TRUE(checked.allocate(1000));
  EXPECT_TRUE(checked.allocate(1 * kMiB));
  checked.free_all(random);
  EXPECT_EQ(checked.pool().used(), 0u);
}

// ---- against a model

TEST(BlockPool, KeepsItsInvariantsUnderRandomUse) {
  constexpr int kRounds = tests::kUnderAsan ? 1 : 4;
  auto random = tests::seeded();
  // As in a service arena, in a worker's answer memory, and anywhere.
  for (const std::size_t skew : {kArenaBlocksOffset % (64 * kKiB), kAnswersOffset % (64 * kKiB),
                                 std::size_t{0}, 64 * tests::below(random, 1024)}) {
    SCOPED_TRACE("skew " + std::to_string(skew));
    Checked checked(8 * kMiB, 256 * kKiB, skew);
    for (int round = 0; round < kRounds && !HasFailure(); ++round) {
      const std::size_t many = 1 + tests::below(random, 400);
      for (int step = 0; step < 3000 && !HasFailure(); ++step) {
        checked.refuse(tests::below(random, 10) == 0);
        const bool full = checked.live() >= many || !checked.allocate(any_size(random));
        if (full && checked.live() != 0) checked.free_any(random);
        if (checked.live() != 0 && tests::below(random, 3) == 0) checked.free_any(random);
      }
      checked.free_all(random);
      ASSERT_EQ(checked.pool().used(), 0u);
    }
  }
}

}  // namespace
}  // namespace forge::shm
