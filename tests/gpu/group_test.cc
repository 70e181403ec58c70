// Collectives when all goes well: what they compute, in every size, and that they wait.
#include "gpu/group.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/gpu/group_fixture.h"
#include "tests/gpu/group_ranks.h"

namespace forge::gpu {
namespace {

using tests::kChunk;
using tests::Ranks;
using tests::same_bits;

constexpr std::size_t kFloats = kChunk / sizeof(float);
constexpr std::size_t kCounts[] = {0, 1, 3, 7, kFloats - 1, kFloats, kFloats + 1, 5 * kFloats + 13};

std::vector<std::byte> bytes_of(int rank, std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>(static_cast<std::size_t>(rank + 1) * 37 + i + (i >> 8) * 11);
  }
  return bytes;
}

TEST(Barrier, HoldsEveryRankUntilTheLastHasCome) {
  for (const Wait wait : {Wait::adaptive, Wait::block}) {
    Ranks ranks(3);
    std::atomic<int> came = 0;
    ranks.run(
        [&](Group& group, int) {
          for (int round = 1; round <= 200; ++round) {
            ++came;
            group.barrier();
            EXPECT_GE(came, 3 * round);
            group.barrier();
          }
        },
        [&](GroupSpec& spec) { spec.wait = wait; });
    EXPECT_EQ(came, 600);
  }
}

TEST(Barrier, WaitsForARankThatStartsLate) {
  Ranks ranks(2);
  std::atomic<bool> late_is_there = false;
  std::thread early([&] {
    ranks.make(0)->barrier();
    EXPECT_TRUE(late_is_there);
  });
  while (ranks.file(0).sleeps_on.load() == 0) std::this_thread::yield();
  late_is_there = true;
  ranks.make(1)->barrier();
  early.join();
}

TEST(Barrier, WorksWhileRanksOnlySpin) {
  Ranks ranks(2);
  ranks.run(
      [](Group& group, int) {
        for (int round = 0; round < 20; ++round) group.barrier();
        EXPECT_EQ(group.procs(), 2);
      },
      [](GroupSpec& spec) { spec.wait = Wait::spin; });
  EXPECT_EQ(ranks.file(0).step.load(), 20u);
}

TEST(Barrier, RingsForThoseWhoSleepAndForNobodyElse) {
  Ranks ranks(2);
  const auto group = ranks.make(1);
  group->begin(1);
  EXPECT_EQ(ranks.file(1).bell.word.load(), 0u);
  std::thread sleeper([&] {
    GroupSpec spec = ranks.spec(0);
    spec.wait = Wait::block;
    const auto asleep = Group::create(std::move(spec)).value();
    asleep->begin(1);
    for (int round = 0; round < 50; ++round) asleep->barrier();
  });
  for (std::uint64_t round = 0; round < 50; ++round) {
    while (ranks.file(0).step.load() == round) std::this_thread::yield();
    while (ranks.file(0).sleeps_on.load() == 0) std::this_thread::yield();
    group->barrier();
  }
  sleeper.join();
  EXPECT_EQ(ranks.file(0).sleeps_on.load(), 0u);
  // Not each time: it may have looked up just then.
  EXPECT_GT(ranks.file(1).bell.word.load(), 0u);
  EXPECT_LE(ranks.file(1).bell.word.load(), 50u);
}

TEST(Broadcast, GivesEveryRankTheRootsBytes) {
  Ranks ranks(3);
  ranks.run([](Group& group, int rank) {
    for (int root = 0; root < group.procs(); ++root) {
      for (const std::size_t count : kCounts) {
        std::vector<std::byte> bytes = bytes_of(rank, count);
        group.broadcast(bytes, root);
        EXPECT_EQ(bytes, bytes_of(root, count)) << "rank " << rank << ", root " << root;
      }
    }
  });
}

TEST(Broadcast, OfATensorMayStartFromAFrozenOne) {
  Ranks ranks(2);
  ranks.run([](Group& group, int rank) {
    Tensor tensor(DType::i32, {3, 5});
    std::ranges::fill(tensor.span<std::int32_t>(), rank + 40);
    if (rank == 1) tensor.storage()->frozen = true;
    group.broadcast(tensor, 1);
    const std::vector<std::int32_t> expected(15, 41);
    EXPECT_TRUE(same_bits<std::int32_t>(std::as_const(tensor).span<std::int32_t>(), expected));
  });
}

TEST(AllGather, PutsEveryRanksBytesInOrder) {
  Ranks ranks(3);
  ranks.run([](Group& group, int rank) {
    for (const std::size_t count : kCounts) {
      std::vector<std::byte> expected;
      for (int other = 0; other < 3; ++other) {
        const auto theirs = bytes_of(other, count);
        expected.insert(expected.end(), theirs.begin(), theirs.end());
      }
      std::vector<std::byte> all(3 * count);
      group.all_gather(bytes_of(rank, count), all);
      EXPECT_EQ(all, expected);

      std::vector<std::byte> in_place(3 * count);
      const auto place = std::span(in_place).subspan(static_cast<std::size_t>(rank) * count, count);
      std::ranges::copy(bytes_of(rank, count), place.begin());
      group.all_gather(place, in_place);
      EXPECT_EQ(in_place, expected) << "in place";
    }
  });
}

TEST(AllGather, StacksTensors) {
  Ranks ranks(3);
  ranks.run([](Group& group, int rank) {
    Tensor tensor(DType::f64, {2, 700});
    std::ranges::fill(tensor.span<double>(), rank + 0.5);
    const Tensor all = group.all_gather(tensor);
    EXPECT_EQ(all.dtype(), DType::f64);
    EXPECT_EQ(std::vector(all.shape().begin(), all.shape().end()),
              (std::vector<std::int64_t>{3, 2, 700}));
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(all.span<double>()[i], static_cast<double>(i / 1400) + 0.5);
    }
  });
}

// ---- all_reduce

TEST(AllReduce, AddsFloatsInTheOrderOfRanksEveryTime) {
  auto random = tests::seeded();
  for (const int procs : {2, 3, 5}) {
    Ranks ranks(procs);
    const std::uint64_t seed = random();
    ranks.run([&](Group& group, int rank) {
      for (const std::size_t count : kCounts) {
        for (int time = 0; time < 2; ++time) {
          std::vector<float> values = tests::contribution(seed, rank, count);
          group.all_reduce(std::span(values), Reduction::sum);
          EXPECT_TRUE(same_bits<float>(values, tests::sum_of_contributions(seed, procs, count)))
              << "rank " << rank << ", " << count << " elements";
        }
      }
    });
  }
}

TEST(AllReduce, TestDataWouldShowAnotherOrder) {
  const std::size_t count = 1000;
  std::vector<float> backwards(count);
  for (int rank = 4; rank >= 0; --rank) {
    const auto more = tests::contribution(1, rank, count);
    for (std::size_t i = 0; i < count; ++i) backwards[i] += more[i];
  }
  EXPECT_FALSE(same_bits<float>(backwards, tests::sum_of_contributions(1, 5, count)));
}

template <class T>
class AllReduceOf : public ::testing::Test {};
using Elements =
    ::testing::Types<std::int8_t, std::uint8_t, std::int16_t, std::uint16_t, std::int32_t,
                     std::uint32_t, std::int64_t, std::uint64_t, float, double>;
TYPED_TEST_SUITE(AllReduceOf, Elements);

TYPED_TEST(AllReduceOf, KnowsSumProductMinAndMax) {
  using T = TypeParam;
  constexpr std::size_t kCount = 2 * kChunk / sizeof(T) + 3;
  // Small enough for every type, and with both signs where there are two.
  const auto value = [](int rank, std::size_t i) {
    const int small = static_cast<int>((i + static_cast<std::size_t>(rank) * 3) % 5);
    return static_cast<T>(std::is_signed_v<T> ? small - 2 : small);
  };
  Ranks ranks(3);
  ranks.run([&](Group& group, int rank) {
    const auto reduced = [&](Reduction reduction) {
      std::vector<T> values(kCount);
      for (std::size_t i = 0; i < kCount; ++i) values[i] = value(rank, i);
      group.all_reduce(std::span(values), reduction);
      return values;
    };
    const auto sum = reduced(Reduction::sum);
    const auto product = reduced(Reduction::product);
    const auto min = reduced(Reduction::min);
    const auto max = reduced(Reduction::max);
    for (std::size_t i = 0; i < kCount; ++i) {
      const T a = value(0, i);
      const T b = value(1, i);
      const T c = value(2, i);
      ASSERT_EQ(sum[i], static_cast<T>(a + b + c));
      ASSERT_EQ(product[i], static_cast<T>(a * b * c));
      ASSERT_EQ(min[i], std::min({a, b, c}));
      ASSERT_EQ(max[i], std::max({a, b, c}));
    }
  });
}

TYPED_TEST(AllReduceOf, WrapsIntegersAroundAndLetsFloatsBecomeInfinite) {
  using T = TypeParam;
  using Limits = std::numeric_limits<T>;
  Ranks ranks(2);
  ranks.run([](Group& group, int) {
    std::vector<T> sum = {Limits::max(), Limits::lowest()};
    std::vector<T> product = sum;
    group.all_reduce(std::span(sum), Reduction::sum);
    group.all_reduce(std::span(product), Reduction::product);
    if constexpr (std::is_integral_v<T>) {
      EXPECT_EQ(sum, (std::vector<T>{static_cast<T>(-2), 0}));
      EXPECT_EQ(product, (std::vector<T>{1, 0}));
    } else {
      EXPECT_EQ(sum, (std::vector<T>{Limits::infinity(), -Limits::infinity()}));
      EXPECT_EQ(product, (std::vector<T>{Limits::infinity(), Limits::infinity()}));
    }
  });
}

TEST(AllReduce, LetsANanWinFromEveryRank) {
  Ranks ranks(3);
  ranks.run([](Group& group, int rank) {
    for (const Reduction reduction : {Reduction::min, Reduction::max, Reduction::sum}) {
      std::vector<float> values(4, static_cast<float>(rank));
      if (rank < 3) values[static_cast<std::size_t>(rank)] = std::nanf("");
      group.all_reduce(std::span(values), reduction);
      for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(values[i])) << i;
      EXPECT_FALSE(std::isnan(values[3]));
    }
  });
}

TEST(AllReduce, TakesTensors) {
  Ranks ranks(2);
  ranks.run([](Group& group, int rank) {
    Tensor tensor(DType::i64, {2, 3});
    std::iota(tensor.span<std::int64_t>().begin(), tensor.span<std::int64_t>().end(), rank * 10);
    group.all_reduce(tensor, Reduction::sum);
    const std::vector<std::int64_t> expected = {10, 12, 14, 16, 18, 20};
    EXPECT_TRUE(same_bits<std::int64_t>(std::as_const(tensor).span<std::int64_t>(), expected));
  });
}

// ---- all of them

TEST(Group, OfOneRankIsAloneAndAgrees) {
  Ranks ranks(1);
  const auto group = ranks.make(0);
  group->barrier();
  std::vector<double> values(3000, 2.5);
  group->all_reduce(std::span(values), Reduction::product);
  group->broadcast(std::as_writable_bytes(std::span(values)), 0);
  EXPECT_EQ(values, std::vector<double>(3000, 2.5));
  std::vector<std::byte> all(10000);
  group->all_gather(bytes_of(0, 10000), all);
  EXPECT_EQ(all, bytes_of(0, 10000));
  group->begin(1);
  group->barrier();
  EXPECT_EQ(group->rank(), 0);
  EXPECT_EQ(group->procs(), 1);
}

TEST(Group, KeepsRanksTogetherThroughManyCalls) {
  auto random = tests::seeded();
  for (const Wait wait : {Wait::adaptive, Wait::block}) {
    const std::uint64_t seed = random() / 2;
    Ranks ranks(3);
    ranks.run(
        [&](Group& group, int rank) {
          for (std::uint64_t i = 1; i <= 400; ++i) {
            ASSERT_TRUE(tests::play(group, seed + i, 3 * kFloats)) << "rank " << rank << ", " << i;
            // Calls have no collectives, one or a few; their numbers may have gaps.
            if ((seed + i) % 3 == 0) group.begin(i * 2);
            if ((seed + i) % 6 == 0) group.begin(i * 2 + 1);
          }
        },
        [&](GroupSpec& spec) { spec.wait = wait; });
  }
}

TEST(Group, SpeaksThroughItsOwnFileOnly) {
  Ranks ranks(2);
  const auto group = ranks.make(0);
  const std::vector<std::byte> before(ranks.memory(1).data(),
                                      ranks.memory(1).data() + ranks.memory(1).size());
  group->begin(7);
  group->abort();
  EXPECT_EQ(tests::outcome([&] { group->barrier(); }).code, ErrorCode::worker_lost);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), ranks.memory(1).data()));
}

}  // namespace
}  // namespace forge::gpu
