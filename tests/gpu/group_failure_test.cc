// Collectives when something is wrong: calls that differ, ranks that are late, gone or dead, files
// that nobody of ours can have written. Nothing hangs: where an error must come without the
// timeout, the timeout is an hour.
#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gpu/group.h"
#include "tests/gpu/group_fixture.h"
#include "tests/gpu/group_ranks.h"

namespace forge::gpu {
namespace {

using std::chrono_literals::operator""ms;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using tests::kChunk;
using tests::outcome;
using tests::Ranks;

/// A group that still works sums ranks' numbers.
void expect_usable(Group& group) {
  std::vector<std::int64_t> values(1000, group.rank() + 1);
  group.all_reduce(std::span(values), Reduction::sum);
  const std::int64_t sum = group.procs() * (group.procs() + 1) / 2;
  EXPECT_EQ(values, std::vector<std::int64_t>(1000, sum));
}

void wait_until_asleep(Ranks& ranks, int rank) {
  while (ranks.file(rank).sleeps_on.load() == 0) std::this_thread::yield();
}

// ---- calls that differ

struct Mismatch {
  std::string name;
  std::string shown;  ///< in the message, for the rank that differs
  std::function<void(Group&)> usual;
  std::function<void(Group&)> different;
};

void PrintTo(const Mismatch& mismatch, std::ostream* out) { *out << mismatch.name; }

template <class T>
std::function<void(Group&)> reduce_of(std::size_t count, Reduction reduction = Reduction::sum) {
  return [=](Group& group) {
    std::vector<T> values(count);
    group.all_reduce(std::span(values), reduction);
  };
}
std::function<void(Group&)> broadcast_of(std::size_t count, int root) {
  return [=](Group& group) {
    std::vector<std::byte> bytes(count);
    group.broadcast(bytes, root);
  };
}
std::function<void(Group&)> gather_of(std::size_t count) {
  return [=](Group& group) {
    std::vector<std::byte> all(count * static_cast<std::size_t>(group.procs()));
    group.all_gather(std::vector<std::byte>(count), all);
  };
}
std::function<void(Group&)> barrier() {
  return [](Group& group) { group.barrier(); };
}

class Disagreement : public ::testing::TestWithParam<Mismatch> {};

TEST_P(Disagreement, IsAnErrorOnAllRanksAndTheGroupGoesOn) {
  for (int odd = 0; odd < 3; ++odd) {
    Ranks ranks(3);
    std::array<Status, 3> ends;
    ranks.run([&](Group& group, int rank) {
      expect_usable(group);
      ends[static_cast<std::size_t>(rank)] =
          outcome([&] { (rank == odd ? GetParam().different : GetParam().usual)(group); });
      expect_usable(group);
    });
    for (const Status& end : ends) {
      EXPECT_EQ(end.code, ErrorCode::invalid_argument) << end.message;
      EXPECT_THAT(end.message, AllOf(HasSubstr("rank 0 is in "), HasSubstr(GetParam().shown)));
      EXPECT_EQ(end.message, ends[0].message);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Of, Disagreement,
    ::testing::Values(
        Mismatch{"operation", "barrier", reduce_of<float>(5000), barrier()},
        Mismatch{"gather_and_broadcast", "broadcast(", gather_of(64), broadcast_of(64, 0)},
        Mismatch{"size", "4 bytes of f32", reduce_of<float>(3), reduce_of<float>(1)},
        Mismatch{"more_chunks", "40000 bytes of f32", reduce_of<float>(3), reduce_of<float>(10000)},
        Mismatch{"emptiness", "0 bytes of u8", gather_of(9), gather_of(0)},
        Mismatch{"dtype", "of i32", reduce_of<float>(3), reduce_of<std::int32_t>(3)},
        Mismatch{"reduction", "max", reduce_of<float>(3), reduce_of<float>(3, Reduction::max)},
        Mismatch{"root", "root 2", broadcast_of(10, 1), broadcast_of(10, 2)},
        Mismatch{"tensor", "of f16", broadcast_of(4, 0),
                 [](Group& group) {
                   Tensor tensor(DType::f16, {2});
                   group.broadcast(tensor, 0);
                 }}),
    [](const auto& test) { return test.param.name; });

// ---- wrong arguments on one rank

struct WrongCall {
  std::string name;
  ErrorCode code;
  std::function<void(Group&)> call;
};

void PrintTo(const WrongCall& wrong, std::ostream* out) { *out << wrong.name; }

class WrongArgument : public ::testing::TestWithParam<WrongCall> {};

TEST_P(WrongArgument, FailsThereAndKeepsNobodyWaiting) {
  Ranks ranks(2);
  ranks.run([&](Group& group, int rank) {
    if (rank == 0) {
      const Status end = outcome([&] { GetParam().call(group); });
      EXPECT_EQ(end.code, GetParam().code) << end.message;
      EXPECT_THAT(end.message, Not(HasSubstr("disagree")));
    } else {
      const Status end = outcome([&] { group.barrier(); });
      EXPECT_EQ(end.code, ErrorCode::invalid_argument);
      EXPECT_THAT(end.message, HasSubstr("rank 0 is in a collective with wrong arguments"));
    }
    expect_usable(group);
  });
}

TEST_P(WrongArgument, FailsOnAllIfAllDoIt) {
  Ranks ranks(2);
  ranks.run([&](Group& group, int) {
    EXPECT_EQ(outcome([&] { GetParam().call(group); }).code, GetParam().code);
    expect_usable(group);
  });
}

Tensor frozen(const std::vector<std::int64_t>& shape) {
  Tensor tensor(DType::f32, shape);
  tensor.storage()->frozen = true;
  return tensor;
}

INSTANTIATE_TEST_SUITE_P(
    Of, WrongArgument,
    ::testing::Values(WrongCall{"root_too_large", ErrorCode::invalid_argument, broadcast_of(3, 2)},
                      WrongCall{"root_negative", ErrorCode::invalid_argument, broadcast_of(3, -1)},
                      WrongCall{"broadcast_into_frozen", ErrorCode::invalid_argument,
                                [](Group& group) {
                                  Tensor tensor = frozen({2});
                                  group.broadcast(tensor, 1 - group.rank());
                                }},
                      WrongCall{"reduce_frozen", ErrorCode::invalid_argument,
                                [](Group& group) {
                                  Tensor tensor = frozen({2});
                                  group.all_reduce(tensor, Reduction::sum);
                                }},
                      WrongCall{"half_an_element", ErrorCode::invalid_argument,
                                [](Group& group) {
                                  alignas(8) std::array<std::byte, 12> bytes{};
                                  group.all_reduce(DType::f64, bytes, Reduction::sum);
                                }},
                      WrongCall{"misaligned", ErrorCode::invalid_argument,
                                [](Group& group) {
                                  alignas(8) std::array<std::byte, 12> bytes{};
                                  group.all_reduce(DType::f32, std::span(bytes).subspan(1, 8),
                                                   Reduction::sum);
                                }},
                      WrongCall{"bf16", ErrorCode::not_supported,
                                [](Group& group) {
                                  Tensor tensor(DType::bf16, {2});
                                  group.all_reduce(tensor, Reduction::sum);
                                }},
                      WrongCall{"unknown_reduction", ErrorCode::not_supported,
                                [](Group& group) {
                                  std::array<float, 2> values{};
                                  group.all_reduce(std::span<float>(values),
                                                   static_cast<Reduction>(9));
                                }},
                      WrongCall{"gather_into_too_little", ErrorCode::invalid_argument,
                                [](Group& group) {
                                  std::array<std::byte, 7> all{};
                                  group.all_gather(std::span(all).first(4), all);
                                }},
                      WrongCall{"gather_into_an_odd_size", ErrorCode::invalid_argument,
                                [](Group& group) {
                                  std::array<std::byte, 9> all{};
                                  group.all_gather(std::span(all).first(4), all);
                                }},
                      WrongCall{"too_many_dimensions", ErrorCode::invalid_argument,
                                [](Group& group) {
                                  const Tensor tensor(
                                      DType::u8, std::vector<std::int64_t>(Tensor::kMaxDims, 1));
                                  (void)group.all_gather(tensor);
                                }}),
    [](const auto& test) { return test.param.name; });

// ---- ranks that do not come

TEST(Deadline, NamesTheStepAndTheRanksThatAreMissing) {
  for (const Wait wait : {Wait::spin, Wait::adaptive, Wait::block}) {
    Ranks ranks(4);
    std::vector<std::unique_ptr<Group>> groups;
    for (int rank = 0; rank < 4; ++rank) {
      GroupSpec spec = ranks.spec(rank);
      spec.wait = wait;
      spec.timeout = rank == 0 ? std::chrono::nanoseconds(20ms) : std::chrono::hours(1);
      groups.push_back(Group::create(std::move(spec)).value());
    }
    std::thread two([&] {
      EXPECT_EQ(outcome([&] { groups[2]->barrier(); }).code, ErrorCode::deadline_exceeded)
          << "one that came in time is told that rank 0 gave up";
    });
    while (ranks.file(2).step.load() == 0) std::this_thread::yield();
    const Status end = outcome([&] { groups[0]->barrier(); });
    two.join();
    EXPECT_EQ(end.code, ErrorCode::deadline_exceeded);
    EXPECT_THAT(end.message, AllOf(HasSubstr("in barrier, step 1 of call 0"),
                                   HasSubstr("waited 20 ms"), HasSubstr("for rank 1, 3;")));
  }
}

TEST(Deadline, BreaksTheGroupUntilTheNextCall) {
  Ranks ranks(2);
  GroupSpec spec = ranks.spec(0);
  spec.timeout = 20ms;
  const auto impatient = Group::create(std::move(spec)).value();
  const auto late = ranks.make(1);
  const Status first = outcome([&] { impatient->barrier(); });
  EXPECT_EQ(first.code, ErrorCode::deadline_exceeded);
  const Status second = outcome([&] { expect_usable(*impatient); });
  EXPECT_EQ(second.code, ErrorCode::deadline_exceeded);
  EXPECT_EQ(second.message, first.message);
  const Status told = outcome([&] { late->barrier(); });
  EXPECT_EQ(told.code, ErrorCode::deadline_exceeded);
  EXPECT_THAT(told.message, HasSubstr("rank 0 has given up in call 0"));

  // On a busy machine it may not have the patience at once, but nothing else is in its way.
  Status ends[2] = {first, first};
  for (std::uint64_t call = 1; !ends[0].ok() || !ends[1].ok(); ++call) {
    impatient->begin(call);
    late->begin(call);
    std::thread other([&] { ends[1] = outcome([&] { expect_usable(*late); }); });
    ends[0] = outcome([&] { expect_usable(*impatient); });
    other.join();
    for (const Status& end : ends) {
      ASSERT_TRUE(end.ok() || end.code == ErrorCode::deadline_exceeded) << end.message;
    }
  }
}

TEST(NextCall, TellsThoseWhoWaitInTheOneBefore) {
  Ranks ranks(3);
  std::array<Status, 3> ends;
  ranks.run([&](Group& group, int rank) {
    expect_usable(group);
    // Rank 1 throws something of its own, as far as the others can know.
    if (rank != 1) {
      ends[static_cast<std::size_t>(rank)] = outcome([&] { reduce_of<float>(9000)(group); });
    }
    group.begin(1);
    expect_usable(group);
  });
  for (const int rank : {0, 2}) {
    const Status& end = ends[static_cast<std::size_t>(rank)];
    EXPECT_EQ(end.code, ErrorCode::invalid_argument);
    // One of the two may hear it from the other.
    EXPECT_THAT(end.message, AnyOf(HasSubstr("another call"), HasSubstr("has given up in call 0")));
  }
}

TEST(EndedCall, IsHeardByThoseWhoWaitInIt) {
  for (const ErrorCode outcome_of_it : {ErrorCode::ok, ErrorCode::actor_error}) {
    for (int leaver = 0; leaver < 3; ++leaver) {
      Ranks ranks(3);
      std::array<Status, 3> ends;
      ranks.run([&](Group& group, int rank) {
        expect_usable(group);
        if (rank == leaver) {
          for (int other = 0; other < 3; ++other) {
            if (other != rank) wait_until_asleep(ranks, other);
          }
          group.end(outcome_of_it);
          EXPECT_FALSE(group.let_down());
        } else {
          ends[static_cast<std::size_t>(rank)] = outcome([&] { reduce_of<float>(9000)(group); });
          EXPECT_TRUE(group.let_down());
        }
        group.begin(1);
        EXPECT_FALSE(group.let_down());
        expect_usable(group);
        group.end(ErrorCode::ok);  // what all have done together is done
      });
      for (int rank = 0; rank < 3; ++rank) {
        if (rank == leaver) continue;
        const Status& end = ends[static_cast<std::size_t>(rank)];
        const bool failed = outcome_of_it != ErrorCode::ok;
        EXPECT_EQ(end.code, failed ? ErrorCode::unavailable : ErrorCode::invalid_argument);
        EXPECT_THAT(end.message, HasSubstr("rank " + std::to_string(leaver) +
                                           (failed ? " has failed in this call (actor_error)"
                                                   : " has returned from the call")));
      }
    }
  }
}

TEST(EndedCall, IsHeardOfARankThatHasNeverUsedItsGroup) {
  Ranks ranks(2);
  const auto waits = ranks.make(0);
  std::thread other([&] {
    wait_until_asleep(ranks, 0);
    GroupSpec spec = ranks.spec(1);
    Group::end(spec.files, 1, 0, ErrorCode::ok);
  });
  EXPECT_EQ(outcome([&] { waits->barrier(); }).code, ErrorCode::invalid_argument);
  other.join();
}

TEST(EndedCall, DoesNotUndoWhatItTookPartIn) {
  for (int round = 0; round < 4; ++round) {
    Ranks ranks(4);
    ranks.run([&](Group& group, int) {
      for (std::uint64_t call = 1; call < 6; ++call) {
        expect_usable(group);  // the slowest still reads when the fastest ends
        group.end(ErrorCode::ok);
        group.begin(call);
      }
    });
  }
}

TEST(WrongArguments, LetDownThoseWhoseArgumentsWereRight) {
  Ranks ranks(2);
  ranks.run([&](Group& group, int rank) {
    (void)outcome([&] { rank == 0 ? broadcast_of(3, 9)(group) : group.barrier(); });
    EXPECT_EQ(group.let_down(), rank == 1);
  });
}

TEST(NextCall, HasAGreaterNumber) {
  Ranks ranks(1);
  const auto group = ranks.make(0);
  EXPECT_THROW(group->begin(0), InvalidArgument);
  group->begin(5);
  EXPECT_THROW(group->begin(5), InvalidArgument);
  EXPECT_THROW(group->begin(~std::uint64_t{0}), InvalidArgument);
  group->begin(6);
  expect_usable(*group);
}

// ---- ranks that die

TEST(LostRank, EndsTheWaitsOfAllOthersForGood) {
  Ranks ranks(4);
  std::atomic<bool> dead = false;
  ranks.run(
      [&](Group& group, int rank) {
        expect_usable(group);
        if (rank == 3) {
          // It does not come to the next step, in which all others are before it is dead.
          const std::uint64_t last = ranks.file(3).step;
          for (int other = 0; other < 3; ++other) {
            while (ranks.file(other).step.load() == last) std::this_thread::yield();
            wait_until_asleep(ranks, other);
          }
          dead = true;
          return;
        }
        EXPECT_EQ(outcome([&] { reduce_of<double>(9000)(group); }).code, ErrorCode::worker_lost);
        group.begin(1);
        EXPECT_EQ(outcome([&] { group.barrier(); }).code, ErrorCode::worker_lost) << "for good";
      },
      [&](GroupSpec& spec) {
        // Only one rank is told by its owner; it tells the others.
        if (spec.rank == 1) spec.lost = [&] { return dead.load(); };
      });
}

TEST(LostRank, IsNoticedByASpinningRank) {
  Ranks ranks(2);
  std::atomic<bool> dead = false;
  GroupSpec spec = ranks.spec(0);
  spec.wait = Wait::spin;
  spec.lost = [&] { return dead.load(); };
  const auto group = Group::create(std::move(spec)).value();
  std::thread killer([&] {
    while (ranks.file(0).call.load() == 0) std::this_thread::yield();
    dead = true;
  });
  EXPECT_EQ(outcome([&] { group->barrier(); }).code, ErrorCode::worker_lost);
  killer.join();
}

TEST(Abort, EndsAllWaitsFromAnyThread) {
  Ranks ranks(3);
  std::vector<std::unique_ptr<Group>> groups;
  for (int rank = 0; rank < 3; ++rank) groups.push_back(ranks.make(rank));
  std::vector<std::thread> waiting;
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
    waiting.emplace_back([&, rank] {
      const Status end = outcome([&] { groups[rank]->barrier(); });
      EXPECT_EQ(end.code, ErrorCode::worker_lost);
      EXPECT_THAT(end.message, HasSubstr("aborted by rank"));
    });
  }
  wait_until_asleep(ranks, 0);
  wait_until_asleep(ranks, 2);
  groups[0]->abort();  // by a thread that is not rank 0's
  for (std::thread& thread : waiting) thread.join();
  EXPECT_EQ(outcome([&] { groups[1]->barrier(); }).code, ErrorCode::worker_lost);
}

TEST(Abort, SpoilsNoStepToWhichAllHadCome) {
  for (int round = 0; round < 300; ++round) {
    Ranks ranks(2);
    ranks.run(
        [](Group& group, int rank) {
          expect_usable(group);
          EXPECT_TRUE(outcome([&] { group.barrier(); }).ok());
          if (rank == 1) group.abort();  // rank 0 may still be asleep in the barrier
        },
        [](GroupSpec& spec) { spec.wait = spec.rank == 0 ? Wait::block : Wait::adaptive; });
  }
}

// ---- files that are not right

TEST(Create, RefusesFilesThatCannotBeAGroups) {
  Ranks ranks(2);
  const auto why = [](GroupSpec spec) {
    const auto group = Group::create(std::move(spec));
    return group ? std::string("nothing is wrong") : std::string(group.error().what());
  };
  const auto changed = [&](auto change) {
    GroupSpec spec = ranks.spec(0);
    change(spec);
    return why(std::move(spec));
  };
  const auto part = [&](std::size_t offset, std::size_t size) {
    return shm::Segment::over(std::span(ranks.memory(0).data() + offset, size));
  };
  EXPECT_THAT(changed([](GroupSpec& spec) { spec.rank = 2; }), HasSubstr("rank 2 of 2"));
  EXPECT_THAT(changed([](GroupSpec& spec) { spec.rank = -1; }), HasSubstr("rank -1 of 2"));
  EXPECT_THAT(changed([](GroupSpec& spec) { spec.files.clear(); }), HasSubstr("rank 0 of 0"));
  EXPECT_THAT(changed([&](GroupSpec& spec) { spec.files[1] = part(0, kChunk); }),
              HasSubstr("differ in size"));
  EXPECT_THAT(changed([&](GroupSpec& spec) {
                spec.files.clear();
                spec.files.push_back(part(0, Group::file_size(kChunk) - 1));
              }),
              HasSubstr("too small"));
  EXPECT_THAT(changed([&](GroupSpec& spec) {
                spec.files.clear();
                spec.files.push_back(part(8, Group::file_size(kChunk) - 8));
              }),
              HasSubstr("too small"));
  EXPECT_EQ(why(ranks.spec(0)), "nothing is wrong");
  EXPECT_THAT(why(ranks.spec(0)), HasSubstr("used before"));
}

TEST(Create, RefusesAMisalignedFile) {
  const tests::PlainMemory memory(Group::file_size(kChunk) + kChunk);
  GroupSpec spec;
  spec.files.push_back(shm::Segment::over(std::span(memory.data() + 64, Group::file_size(kChunk))));
  EXPECT_THAT(Group::create(std::move(spec)).error().what(), HasSubstr("not aligned"));
}

/// Rank 0 meets a rank 1 whose file somebody else has written into.
Status meet(const std::function<void(GroupFile&)>& spoil) {
  Ranks ranks(2);
  const auto spoiled = ranks.make(1);
  spoil(ranks.file(1));
  const auto group = ranks.make(0);
  return outcome([&] { reduce_of<float>(5000)(*group); });
}

/// Who still waits elsewhere for what was begun in a call hears why it will not end.
TEST(Failure, IsToldWhenTheRankHasGoneOn) {
  Ranks ranks(2);
  const auto first = ranks.make(0);
  const auto second = ranks.make(1);
  EXPECT_TRUE(first->trouble().ok());
  EXPECT_EQ(outcome([&] {
              second->fail({ErrorCode::unavailable, "no more of it"});
            }).message,
            "no more of it");
  second->begin(1);
  const Status trouble = first->trouble();
  EXPECT_EQ(trouble.code, ErrorCode::unavailable);
  EXPECT_THAT(trouble.message, HasSubstr("rank 1 has given up in call 0"));
  first->begin(1);
  EXPECT_TRUE(first->trouble().ok());
}

/// Two ranks learn what the other says, however often.
TEST(Agreement, TellsEachRankWhatTheOthersSay) {
  Ranks ranks(3);
  ranks.run([](Group& group, int rank) {
    for (int i = 0; i < 100; ++i) {
      const int mine = 10 * i + rank;
      std::vector<int> all(3);
      group.agree({.operation = Operation::all_reduce, .place = Place::device, .bytes = 1 << 30},
                  std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
      EXPECT_EQ(all, (std::vector{10 * i, 10 * i + 1, 10 * i + 2}));
    }
  });
}

TEST(ForeignFile, IsRefusedByItsHeader) {
  const std::function<void(GroupHeader&)> changes[] = {
      [](GroupHeader& header) { header.magic += 1; },
      [](GroupHeader& header) { header.version += 1; },
      [](GroupHeader& header) { header.rank = 0; },
      [](GroupHeader& header) { header.procs = 3; },
      [](GroupHeader& header) { header.file_size *= 2; },
      [](GroupHeader& header) { header.incarnation = 9; },
  };
  for (const auto& change : changes) {
    const Status end = meet([&](GroupFile& file) { change(file.header); });
    EXPECT_EQ(end.code, ErrorCode::invalid_argument);
    EXPECT_THAT(end.message, HasSubstr("the file of rank 1 is not that rank's"));
  }
}

TEST(ForeignFile, MayClaimAnImpossibleStep) {
  const Status end = meet([](GroupFile& file) {
    file.step_call = file.call.load();
    file.step = 3;
  });
  EXPECT_EQ(end.code, ErrorCode::invalid_argument);
  EXPECT_THAT(end.message, HasSubstr("impossible step"));
}

TEST(ForeignFile, MayDescribeNonsense) {
  const Status end = meet([](GroupFile& file) {
    for (GroupCall& call : file.calls) {
      std::memset(static_cast<void*>(&call), 0xEE, sizeof(call));
    }
    file.step_call = file.call.load();
    file.step = 1;
  });
  EXPECT_EQ(end.code, ErrorCode::invalid_argument);
  EXPECT_THAT(end.message, AllOf(HasSubstr("disagree"), HasSubstr("rank 1 in an unknown")));
}

TEST(ForeignFile, MayHaveFailedInUnheardOfWays) {
  const Status end = meet([](GroupFile& file) {
    file.failed = 12345;
    file.failed_call = file.call.load();
  });
  EXPECT_EQ(end.code, ErrorCode::invalid_argument);
  EXPECT_THAT(end.message, HasSubstr("rank 1 has given up"));
}

}  // namespace
}  // namespace forge::gpu
