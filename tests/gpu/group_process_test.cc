// Ranks as processes: each writes its own memfd and has the others' mapped read-only.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "gpu/group.h"
#include "tests/child.h"
#include "tests/gpu/group_fixture.h"

namespace forge::gpu {
namespace {

using shm::Access;
using shm::FileDescriptor;
using shm::Segment;
using shm::Writer;
using tests::outcome;

constexpr int kProcs = 3;
constexpr std::size_t kChunk = 16 * 1024;
constexpr std::size_t kMost = 3 * kChunk / sizeof(float);

/// What a controller makes for one replica: a file per rank, and a word that says that one is dead.
class Replica {
 public:
  Replica() {
    for (int rank = 0; rank < kProcs; ++rank) {
      constexpr std::size_t kSize = Group::file_size(kChunk);
      files_.push_back(
          Segment::create(
              {.name = "group_test", .size = kSize, .reserved = kSize, .writer = Writer::peer})
              .value());
    }
  }

  /// In a child: what a worker does.
  std::unique_ptr<Group> join(int rank, std::function<bool()> lost) const {
    GroupSpec spec{.rank = rank, .files = {}, .timeout = std::chrono::hours(1)};
    for (int other = 0; other < kProcs; ++other) {
      spec.files.push_back(attach(files_[static_cast<std::size_t>(other)],
                                  other == rank ? Access::read_write : Access::read_only));
    }
    spec.lost = std::move(lost);
    return Group::create(std::move(spec)).value();
  }

  static Segment attach(const Segment& segment, Access access) {
    return Segment::attach(FileDescriptor(::dup(segment.fd())), access).value();
  }

 private:
  std::deque<Segment> files_;
};

TEST(GroupOfProcesses, ComputesTheSameBitsEverywhere) {
  auto random = tests::seeded();
  const std::uint64_t seed = random() / 2;
  const Replica replica;
  std::deque<tests::Child> children;
  for (int rank = 0; rank < kProcs; ++rank) {
    children.emplace_back([&, rank] {
      const auto group = replica.join(rank, {});
      for (std::uint64_t i = 1; i <= 500; ++i) {
        if (!tests::play(*group, seed + i, kMost)) return 1;
        if ((seed + i) % 5 == 0) group->begin(i);
      }
      return 0;
    });
  }
  for (tests::Child& child : children) EXPECT_EQ(child.join(), 0);
}

TEST(GroupOfProcesses, FindsDisagreementInAllOfThem) {
  const Replica replica;
  std::deque<tests::Child> children;
  for (int rank = 0; rank < kProcs; ++rank) {
    children.emplace_back([&, rank] {
      const auto group = replica.join(rank, {});
      std::vector<float> values(rank == 1 ? kMost : 2);
      const Status end = outcome([&] { group->all_reduce(std::span(values), Reduction::sum); });
      group->barrier();
      return end.code == ErrorCode::invalid_argument ? 0 : 1;
    });
  }
  for (tests::Child& child : children) EXPECT_EQ(child.join(), 0);
}

TEST(GroupOfProcesses, ThrowsWorkerLostWhenOneIsKilledInTheMiddleOfAStep) {
  auto random = tests::seeded();
  const Segment flag =
      Segment::create({.name = "group_test:dead", .size = 4096, .reserved = 4096}).value();
  auto& dead = *reinterpret_cast<std::atomic<std::uint32_t>*>(flag.data());
  for (int round = 0; round < 10; ++round) {
    dead = 0;
    const Replica replica;
    const std::uint64_t seed = random() / 2;
    const std::uint64_t killed_at = 1 + tests::below(random, 200);
    std::deque<tests::Child> children;
    for (int rank = 0; rank < kProcs; ++rank) {
      children.emplace_back([&, rank] {
        const Segment told = Replica::attach(flag, Access::read_only);
        std::uint64_t looks = 0;
        // Asked before each collective, and in it while a rank waits for others.
        const auto lost = [&] {
          if (rank == 1 && ++looks == killed_at) ::raise(SIGKILL);
          return reinterpret_cast<const std::atomic<std::uint32_t>*>(told.data())->load() != 0;
        };
        const auto group = replica.join(rank, lost);
        const Status end = outcome([&] {
          for (std::uint64_t i = 1;; ++i) {
            if (!tests::play(*group, seed + i, kMost)) ::_exit(1);
          }
        });
        return end.code == ErrorCode::worker_lost ? 0 : 2;
      });
    }
    EXPECT_EQ(children[1].join(), -SIGKILL);
    dead = 1;
    EXPECT_EQ(children[0].join(), 0);
    EXPECT_EQ(children[2].join(), 0);
  }
}

}  // namespace
}  // namespace forge::gpu
