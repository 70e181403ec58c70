// NcclGroup over a made up NCCL: ranks are threads, device memory is host memory.
#include "gpu/nccl_group.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "gpu/host_backend.h"
#include "tests/gpu/fake_nccl.h"
#include "tests/gpu/group_fixture.h"
#include "tests/gpu/group_ranks.h"

namespace forge::gpu {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;
using tests::outcome;

constexpr std::uint64_t kIncarnation = 7;
constexpr milliseconds kShort{200};

/// Done, unless a kernel of that rank runs.
class KernelEvent final : public Event {
 public:
  explicit KernelEvent(const std::atomic<bool>& running) : running_(running) {}
  Result<bool> done() override { return !running_.load(); }
  Status synchronize() override { return {}; }
  void* native() const override { return nullptr; }

 private:
  const std::atomic<bool>& running_;
};

template <class T>
std::span<std::byte> device(std::vector<T>& values) {
  return std::as_writable_bytes(std::span(values));
}

/// One replica, whose NCCL the test makes fail.
class NcclGroups : public ::testing::TestWithParam<int> {
 protected:
  using Body = std::function<void(NcclGroup& nccl, Group& group, int rank)>;

  NcclGroups() : library_(load_nccl(FAKE_NCCL).value()), fake_(tests::fake_nccl(FAKE_NCCL)) {
    for (auto* flag : {&fake_.id_fails, &fake_.init_hangs, &fake_.collective_hangs,
                       &fake_.kernel_hangs, &fake_.finalize_hangs, &fake_.abort_hangs})
      *flag = false;
    for (auto* rank : {&fake_.init_fails_at, &fake_.collective_fails_at, &fake_.remote_error_at})
      *rank = -1;
    for (auto* count :
         {&fake_.ids, &fake_.inits, &fake_.collectives, &fake_.aborts, &fake_.destroyed})
      *count = 0;
  }
  ~NcclGroups() override { EXPECT_EQ(fake_.living, 0) << "communicators were left behind"; }

  int procs() const { return GetParam(); }
  std::string device_of(int rank) const { return "GPU-" + std::to_string(rank); }

  /// Runs body on one thread per rank.
  void run(const Body& body, const std::function<void(NcclSpec&, int rank)>& change = {}) {
    tests::Ranks ranks(procs());
    ranks.run(
        [&](Group& group, int rank) {
          const auto backend = make_host_backend();
          const auto stream = backend->make_stream().value();
          NcclSpec spec{
              .group = group,
              .stream = *stream,
              .event = std::make_unique<KernelEvent>(fake_.running[static_cast<std::size_t>(rank)]),
              .uuid = device_of(rank),
              .incarnation = kIncarnation,
              .timeout = timeout_,
              .load = [&] { return Result<NcclLibrary>(library_); }};
          if (change) change(spec, rank);
          NcclGroup nccl(std::move(spec));
          body(nccl, group, rank);
        },
        [&](GroupSpec& spec) {
          spec.timeout = group_timeout_;
          spec.lost = [&] { return dead_.load(); };
        });
  }

  /// How `body` ended in each rank.
  std::vector<Status> ends(const Body& body,
                           const std::function<void(NcclSpec&, int rank)>& change = {}) {
    std::vector<Status> result(static_cast<std::size_t>(procs()));
    run(
        [&](NcclGroup& nccl, Group& group, int rank) {
          result[static_cast<std::size_t>(rank)] = outcome([&] { body(nccl, group, rank); });
        },
        change);
    return result;
  }

  /// Checks that collectives do what they should.
  static void use(NcclGroup& nccl, int rank, int procs) {
    std::vector<float> sum(1000);
    std::iota(sum.begin(), sum.end(), static_cast<float>(rank));
    nccl.all_reduce(DType::f32, device(sum), Reduction::sum);
    const int ranks = procs * (procs - 1) / 2;
    for (int i = 0; i < 1000; ++i)
      ASSERT_EQ(sum[static_cast<std::size_t>(i)], static_cast<float>(procs * i + ranks));

    std::vector<std::int64_t> most = {rank, -rank};
    nccl.all_reduce(DType::i64, device(most), Reduction::max);
    EXPECT_EQ(most, (std::vector<std::int64_t>{procs - 1, 0}));

    for (int root = 0; root < procs; ++root) {
      std::vector<std::uint16_t> values(333, static_cast<std::uint16_t>(rank + 1));
      nccl.broadcast(DType::bf16, device(values), root);
      EXPECT_THAT(values, Each(root + 1));
    }

    std::vector<std::int32_t> mine(5, rank);
    std::vector<std::int32_t> all(5 * static_cast<std::size_t>(procs));
    nccl.all_gather(DType::i32, std::as_bytes(std::span(mine)), device(all));
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<int>(i / 5));
  }

  static void reduce_some(NcclGroup& nccl) {
    std::vector<float> values(10);
    nccl.all_reduce(DType::f32, device(values), Reduction::sum);
  }

  const NcclLibrary library_;
  tests::FakeNccl& fake_;
  /// Nothing times out that is not meant to.
  std::chrono::nanoseconds timeout_ = std::chrono::hours(1);
  std::chrono::nanoseconds group_timeout_ = std::chrono::hours(1);
  std::atomic<bool> dead_{false};  ///< the controller knows that a rank is
};
INSTANTIATE_TEST_SUITE_P(Procs, NcclGroups, ::testing::Values(1, 2, 4));

auto is(ErrorCode code, const std::string& text) {
  return AllOf(Field(&Status::code, code), Field(&Status::message, HasSubstr(text)));
}

TEST_P(NcclGroups, ARankThatHasLeftTheCallIsNotWaitedFor) {
  run([&](NcclGroup& nccl, Group& group, int rank) {
    use(nccl, rank, procs());
    if (rank == 0) {
      group.end(ErrorCode::actor_error);
    } else {
      EXPECT_THAT(outcome([&] { reduce_some(nccl); }),
                  is(ErrorCode::unavailable, "rank 0 has failed in this call"));
      EXPECT_TRUE(group.let_down());
    }
    group.begin(1);
    use(nccl, rank, procs());
    group.end(ErrorCode::ok);
  });
}

TEST_P(NcclGroups, OneCommunicatorCarriesAllCollectives) {
  run([&](NcclGroup& nccl, Group& group, int rank) {
    for (std::uint64_t call = 1; call <= 3; ++call) {
      group.begin(call);
      use(nccl, rank, procs());
      EXPECT_EQ(nccl.generation(), 1U);
    }
  });
  EXPECT_EQ(fake_.ids, 1);
  EXPECT_EQ(fake_.inits, procs());
  EXPECT_EQ(fake_.aborts, 0);
  EXPECT_EQ(fake_.destroyed, procs());
}

TEST_P(NcclGroups, IsNotMadeForNothing) {
  run([](NcclGroup&, Group& group, int) { group.barrier(); });
  EXPECT_EQ(fake_.ids, 0);
}

TEST_P(NcclGroups, EmptyTensorsAreNoWork) {
  run([&](NcclGroup& nccl, Group&, int) {
    nccl.broadcast(DType::f32, {}, procs() - 1);
    nccl.all_reduce(DType::f32, {}, Reduction::sum);
    nccl.all_gather(DType::f32, {}, {});
  });
  EXPECT_EQ(fake_.collectives, 0);
}

TEST_P(NcclGroups, WhatNcclCannotReduceIsRefusedInAllRanks) {
  run([&](NcclGroup& nccl, Group&, int rank) {
    std::vector<std::int16_t> values(4);
    EXPECT_THAT(outcome([&] { nccl.all_reduce(DType::i16, device(values), Reduction::sum); }),
                is(ErrorCode::not_supported, "no sum of i16; convert"));
    EXPECT_THAT(outcome([&] { nccl.broadcast(DType::i16, device(values), procs()); }),
                is(ErrorCode::invalid_argument, "broadcast from rank"));
    use(nccl, rank, procs());
  });
}

TEST_P(NcclGroups, CannotBePartOfAGraph) {
  std::vector<Stream*> streams(static_cast<std::size_t>(procs()));
  run(
      [&](NcclGroup& nccl, Group&, int rank) {
        Stream& stream = *streams[static_cast<std::size_t>(rank)];
        ASSERT_TRUE(stream.begin_capture().ok());
        EXPECT_THAT(outcome([&] { reduce_some(nccl); }),
                    is(ErrorCode::not_supported, "cannot be part of a graph"));
        EXPECT_TRUE(stream.end_capture());
        use(nccl, rank, procs());
      },
      [&](NcclSpec& spec, int rank) { streams[static_cast<std::size_t>(rank)] = &spec.stream; });
}

TEST_P(NcclGroups, AMissingLibraryIsSaidAndAskedForAgain) {
  std::atomic<int> asked{0};
  run(
      [&](NcclGroup& nccl, Group&, int rank) {
        EXPECT_THAT(outcome([&] { reduce_some(nccl); }),
                    is(ErrorCode::unavailable, "install NCCL"));
        EXPECT_EQ(nccl.generation(), 0U);
        use(nccl, rank, procs());  // in the same call: nothing has broken
      },
      [&](NcclSpec& spec, int) {
        spec.load = [&, tries = 0]() mutable {
          ++asked;
          return ++tries == 1 ? load_nccl("/nowhere/libnccl.so.2") : Result<NcclLibrary>(library_);
        };
      });
  EXPECT_EQ(asked, 2 * procs());
}

TEST_P(NcclGroups, AnInitThatHangsEndsAtTheDeadlineAndTheNextCallStartsAnew) {
  timeout_ = kShort;
  fake_.init_hangs = true;
  run([&](NcclGroup& nccl, Group& group, int rank) {
    const Status end = outcome([&] { reduce_some(nccl); });
    EXPECT_EQ(end.code, ErrorCode::deadline_exceeded);
    EXPECT_EQ(nccl.generation(), 0U);
    EXPECT_FALSE(outcome([&] { reduce_some(nccl); }).ok()) << "the call is over";
    group.begin(1);
    group.barrier();
    fake_.init_hangs = false;
    group.barrier();
    use(nccl, rank, procs());
    EXPECT_EQ(nccl.generation(), 2U);
  });
  EXPECT_EQ(fake_.aborts, procs());
}

TEST_P(NcclGroups, AnIdThatCannotBeMadeIsAnErrorInAllRanks) {
  fake_.id_fails = true;
  const std::vector<Status> ended = ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); });
  EXPECT_THAT(ended, Each(Field(&Status::code, ErrorCode::unavailable)));
  EXPECT_THAT(ended[0].message, HasSubstr("NCCL_SOCKET_IFNAME"));
  EXPECT_EQ(fake_.inits, 0);
}

TEST_P(NcclGroups, AKernelThatHangsIsAbortedAtTheDeadline) {
  timeout_ = kShort;
  fake_.kernel_hangs = true;
  const auto ended = ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); });
  EXPECT_THAT(ended, Each(Field(&Status::code, ErrorCode::deadline_exceeded)));
  EXPECT_EQ(fake_.aborts, procs());
  for (const std::atomic<bool>& running : fake_.running) EXPECT_FALSE(running);
}

TEST_P(NcclGroups, AnAbortThatHangsIsSaidToBeStuckAndLeftBehind) {
  timeout_ = kShort;
  fake_.kernel_hangs = true;
  fake_.abort_hangs = true;
  std::atomic<int> stuck{0};
  const auto ended = ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); },
                          [&](NcclSpec& spec, int) {
                            spec.abort_time = milliseconds(20);
                            spec.stuck = [&](const Status& why) {
                              EXPECT_THAT(why, is(ErrorCode::unavailable, "not ended in 20 ms"));
                              ++stuck;
                            };
                          });
  EXPECT_THAT(ended, Each(Field(&Status::code, ErrorCode::deadline_exceeded)));
  EXPECT_EQ(stuck, procs());
  EXPECT_EQ(fake_.living, procs()) << "nobody waited for the end of one";
  fake_.abort_hangs = false;
  while (fake_.living != 0) std::this_thread::sleep_for(milliseconds(1));
}

TEST_P(NcclGroups, ADeadRankEndsTheWaitForACollective) {
  for (const bool in_kernel : {false, true}) {
    dead_ = false;
    (in_kernel ? fake_.kernel_hangs : fake_.collective_hangs) = true;
    std::jthread controller([&, before = fake_.collectives.load()] {
      while (fake_.collectives < before + procs()) std::this_thread::sleep_for(milliseconds(1));
      dead_ = true;
    });
    const auto ended = ends([](NcclGroup& nccl, Group& group, int) {
      const Status end = outcome([&] { reduce_some(nccl); });
      group.begin(1);
      EXPECT_EQ(outcome([&] { reduce_some(nccl); }).code, ErrorCode::worker_lost) << "for good";
      throw_status(end);
    });
    EXPECT_THAT(ended, Each(Field(&Status::code, ErrorCode::worker_lost)));
    fake_.collective_hangs = false;
    fake_.kernel_hangs = false;
  }
  EXPECT_EQ(fake_.aborts, 2 * procs());
}

TEST_P(NcclGroups, ADeadRankEndsTheWaitForACommunicator) {
  fake_.init_hangs = true;
  std::jthread controller([&] {
    while (fake_.inits < procs()) std::this_thread::sleep_for(milliseconds(1));
    dead_ = true;
  });
  EXPECT_THAT(ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); }),
              Each(Field(&Status::code, ErrorCode::worker_lost)));
  EXPECT_EQ(fake_.aborts, procs());
}

TEST_P(NcclGroups, APeerThatDoesNotFinishIsNotWaitedForInTheEnd) {
  fake_.finalize_hangs = true;
  run([&](NcclGroup& nccl, Group&, int rank) { use(nccl, rank, procs()); },
      [](NcclSpec& spec, int) { spec.closing_time = milliseconds(20); });
  EXPECT_EQ(fake_.destroyed, 0);
  EXPECT_EQ(fake_.aborts, procs());
}

TEST_P(NcclGroups, WhatFailsIsSaidBeforeAnythingIsAborted) {
  fake_.collective_fails_at = 0;
  std::atomic<int> aborts{-1};
  const auto ended = ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); },
                          [&](NcclSpec& spec, int rank) {
                            if (rank != 0) return;
                            spec.failed = [&](const Status& why) {
                              EXPECT_THAT(why, is(ErrorCode::unavailable, "NCCL 2.28.9"));
                              aborts = fake_.aborts.load();
                            };
                          });
  EXPECT_THAT(ended, Each(Field(&Status::code, ErrorCode::unavailable)));
  EXPECT_EQ(aborts, 0);
}

TEST_P(NcclGroups, WhatFailsInOneRankFailsInAllAndTheNextCallStartsAnew) {
  const int last = procs() - 1;
  for (std::atomic<int>* const fails_at :
       {&fake_.init_fails_at, &fake_.collective_fails_at, &fake_.remote_error_at}) {
    *fails_at = last;
    fake_.aborts = 0;
    run([&](NcclGroup& nccl, Group& group, int rank) {
      const Status end = outcome([&] { reduce_some(nccl); });
      EXPECT_EQ(end.code, ErrorCode::unavailable);
      EXPECT_THAT(end.message, HasSubstr(rank == last ? "NCCL 2.28.9" : "has given up in call 0"));
      group.begin(1);
      group.barrier();
      *fails_at = -1;
      group.barrier();
      use(nccl, rank, procs());
      EXPECT_EQ(nccl.generation(), 2U);
    });
  }
}

// ---- two ranks or more

class NcclPeers : public NcclGroups {};
INSTANTIATE_TEST_SUITE_P(Procs, NcclPeers, ::testing::Values(2, 3));

TEST_P(NcclPeers, DifferentCallsAreFoundBeforeNcclIsCalled) {
  run([&](NcclGroup& nccl, Group& group, int rank) {
    const bool odd = rank == procs() - 1;
    std::vector<float> values(10);
    std::vector<float> other(odd ? 9 : 10);
    const auto differ = [&](const std::function<void()>& body) {
      EXPECT_THAT(outcome(body), is(ErrorCode::invalid_argument, "ranks disagree"));
    };
    differ([&] { nccl.all_reduce(DType::f32, device(other), Reduction::sum); });
    differ([&] {
      nccl.all_reduce(DType::f32, device(values), odd ? Reduction::max : Reduction::sum);
    });
    differ([&] { nccl.all_reduce(odd ? DType::i32 : DType::f32, device(values), Reduction::sum); });
    differ([&] { nccl.broadcast(DType::f32, device(values), odd ? 1 : 0); });
    differ([&] {
      if (odd) {
        nccl.broadcast(DType::f32, device(values), 0);
      } else {
        nccl.all_reduce(DType::f32, device(values), Reduction::sum);
      }
    });
    // The same, but on the host in one of them.
    differ([&] {
      if (odd) {
        group.all_reduce(DType::f32, device(values), Reduction::sum);
      } else {
        nccl.all_reduce(DType::f32, device(values), Reduction::sum);
      }
    });
    EXPECT_EQ(fake_.ids, 0);
    use(nccl, rank, procs());
    differ([&] { nccl.all_reduce(DType::f32, device(other), Reduction::sum); });
    use(nccl, rank, procs());
    EXPECT_EQ(nccl.generation(), 1U);
  });
}

TEST_P(NcclPeers, TwoRanksOnOneDeviceAreRefusedBeforeNcclIsCalled) {
  const auto ended = ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); },
                          [&](NcclSpec& spec, int rank) {
                            if (rank == procs() - 1) spec.uuid = device_of(0);
                          });
  EXPECT_THAT(
      ended, Each(is(ErrorCode::invalid_argument, "rank 0 and rank " + std::to_string(procs() - 1) +
                                                      " share the device GPU-0")));
  EXPECT_EQ(fake_.ids, 0);
  EXPECT_EQ(fake_.inits, 0);
}

TEST_P(NcclPeers, ALibraryThatOneRankLacksIsMissedInAll) {
  const auto ended = ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); },
                          [&](NcclSpec& spec, int rank) {
                            if (rank == 1) spec.load = [] { return load_nccl(FAKE_NCCL_OLD); };
                          });
  EXPECT_THAT(ended[0], is(ErrorCode::unavailable, "rank 1 cannot load NCCL"));
  EXPECT_THAT(ended[1], is(ErrorCode::not_supported, "too old"));
  EXPECT_EQ(fake_.ids, 0);
}

TEST_P(NcclPeers, ARankOfAnotherIncarnationIsNotFollowed) {
  const auto ended = ends([](NcclGroup& nccl, Group&, int) { reduce_some(nccl); },
                          [&](NcclSpec& spec, int rank) {
                            if (rank == 1) spec.incarnation = kIncarnation + 1;
                          });
  EXPECT_THAT(ended[1], is(ErrorCode::invalid_argument, "incarnation 7, this rank is of 8"));
  EXPECT_FALSE(ended[0].ok());
}

TEST_P(NcclPeers, ARankThatNeverComesIsNotWaitedForByNccl) {
  group_timeout_ = kShort;
  run([&](NcclGroup& nccl, Group&, int rank) {
    if (rank == 1) return;
    EXPECT_EQ(outcome([&] { reduce_some(nccl); }).code, ErrorCode::deadline_exceeded);
  });
  EXPECT_EQ(fake_.ids, 0);
}

TEST_P(NcclPeers, ARankThatIsKilledBeforeItsCollectiveIsNotWaitedFor) {
  std::atomic<int> left{0};
  run([&](NcclGroup& nccl, Group& group, int rank) {
    use(nccl, rank, procs());
    if (rank == 1) {
      // It agrees, and dies before it calls NCCL.
      const std::uint64_t generation = nccl.generation();
      std::vector<std::uint64_t> all(static_cast<std::size_t>(procs()));
      group.agree({.operation = Operation::all_reduce,
                   .reduction = Reduction::sum,
                   .dtype = DType::f32,
                   .place = Place::device,
                   .bytes = 10 * sizeof(float)},
                  std::as_bytes(std::span(&generation, 1)), std::as_writable_bytes(std::span(all)));
      dead_ = true;
      while (left < procs() - 1) std::this_thread::sleep_for(milliseconds(1));
      return;
    }
    EXPECT_EQ(outcome([&] { reduce_some(nccl); }).code, ErrorCode::worker_lost);
    EXPECT_EQ(nccl.generation(), 0U);
    ++left;
  });
  EXPECT_GE(fake_.aborts, procs() - 1);
}

}  // namespace
}  // namespace forge::gpu
