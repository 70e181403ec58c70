// context().group(): what the ranks of a replica tell each other, across deaths and mistakes. The
// actor is linked in, so that ranks can behave differently.
#include <forge/plugin.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/e2e/support.h"

namespace {

using Numbers = std::vector<std::int64_t>;

std::int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

class Together : public forge::ForgeActor {
 public:
  Together() { forge::context().group().barrier(); }
  /// All ranks learn of all, and the actor keeps the group.
  void setup() override {
    group_ = &forge::context().group();
    std::int64_t mine = 100 + forge::context().rank();
    met_.resize(static_cast<std::size_t>(group_->procs()));
    group_->all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(met_)));
  }
  Numbers met_in_setup() const { return met_; }
  Numbers who() const {
    const forge::Group& group = forge::context().group();
    return {group.rank(), group.procs()};
  }

  /// Of numbers that differ by rank and do not add up exactly.
  forge::Tensor reduce(std::int64_t count, std::int64_t reduction) const {
    forge::Tensor tensor(forge::DType::f32, {count});
    const int rank = forge::context().rank();
    std::int64_t i = 0;
    for (float& value : tensor.span<float>()) value = element(rank, i++);
    forge::context().group().all_reduce(tensor, static_cast<forge::Reduction>(reduction));
    return tensor;
  }
  static float element(int rank, std::int64_t i) {
    return static_cast<float>((rank * 7 + i * 13) % 1001) / 3.0F * (rank % 2 == 0 ? 1.0F : -1e-3F);
  }
  std::int64_t sum(std::int64_t value) const {
    std::int64_t total = value + forge::context().rank();
    forge::context().group().all_reduce(std::span(&total, 1), forge::Reduction::sum);
    return total;
  }
  /// One call after the other, one collective after the other.
  Numbers sums(const Numbers& values) const {
    Numbers result;
    for (const std::int64_t value : values) result.push_back(sum(value));
    return result;
  }
  forge::Bytes broadcast(std::int64_t size, std::int64_t root) const {
    const int rank = forge::context().rank();
    forge::Bytes bytes(static_cast<std::size_t>(size), static_cast<std::byte>(rank + 1));
    forge::context().group().broadcast(bytes, static_cast<int>(root));
    return bytes;
  }
  /// The argument is read-only in every rank, which is good enough for the root.
  forge::Tensor broadcast_tensor(const forge::Tensor& tensor) const {
    forge::Tensor mine = tensor;
    if (forge::context().rank() != 0)
      mine = forge::Tensor(tensor.dtype(), {tensor.shape().begin(), tensor.shape().end()});
    forge::context().group().broadcast(mine, 0);
    return mine;
  }
  forge::Tensor gather(std::int64_t count) const {
    forge::Tensor tensor(forge::DType::i64, {count});
    std::ranges::fill(tensor.span<std::int64_t>(), forge::context().rank());
    return forge::context().group().all_gather(tensor);
  }
  /// The last rank is late. When this rank came to the barrier, and when it left.
  std::pair<std::int64_t, std::int64_t> barrier() const {
    auto& context = forge::context();
    if (context.rank() == context.procs() - 1)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const std::int64_t before = now_ns();
    context.group().barrier();
    return {before, now_ns()};
  }

  /// Rank 0 does something else.
  void differ() const {
    std::vector<std::byte> bytes(8);
    if (forge::context().rank() == 0) {
      forge::context().group().barrier();
    } else {
      forge::context().group().broadcast(bytes, 0);
    }
  }
  /// The last rank takes no part.
  void skip() const {
    if (forge::context().rank() != forge::context().procs() - 1) forge::context().group().barrier();
  }
  /// The last rank stays away, and never comes back. The others are in the middle of something long.
  void hang() const {
    std::vector<std::byte> bytes(1 << 20);
    forge::context().group().broadcast(bytes, 0);
    if (forge::context().rank() == forge::context().procs() - 1)
      std::this_thread::sleep_for(std::chrono::hours(1));
    forge::context().group().broadcast(bytes, 0);
  }
  std::int64_t by_kept_reference() {
    group_->barrier();
    return group_->procs();
  }
  std::int64_t pid() const { return ::getpid(); }

 private:
  forge::Group* group_ = nullptr;
  Numbers met_;
};

/// The group is made by the first call that wants it.
class Late : public forge::ForgeActor {
 public:
  std::int64_t plain() const { return 1; }
  std::int64_t met() const {
    std::int64_t ranks = 1;
    forge::context().group().all_reduce(std::span(&ranks, 1), forge::Reduction::sum);
    return ranks;
  }
  std::string stream() const {
    try {
      return forge::context().stream() == nullptr ? "null" : "a stream";
    } catch (const forge::NotSupported& error) {
      return error.what();
    }
  }
};

/// One rank leaves a call in another way than the others, who are in a collective.
class Leaver : public forge::ForgeActor {
 public:
  Leaver(std::string where, std::int64_t who, std::string how) {
    if (where == "constructor") leave(who, how, "all_reduce");
    if (where == "setup") in_setup_ = [this, who, how] { leave(who, how, "barrier"); };
  }
  void setup() override {
    if (in_setup_) in_setup_();
  }
  void leave(std::int64_t who, const std::string& how, const std::string& collective) const {
    if (forge::context().rank() != who) return meet(collective, 8);
    if (how == "throws") throw std::out_of_range("enough of this");
    if (how == "throws later") {
      meet(collective, 8);
      throw std::out_of_range("enough of this");
    }
    if (how == "other size") meet(collective, 16);
    if (how == "other collective") meet(collective == "barrier" ? "all_gather" : "barrier", 8);
    if (how == "wrong argument") meet("wrong", 8);
    if (how == "cancelled") {
      while (!forge::context().cancelled()) std::this_thread::yield();
      throw std::runtime_error("cancelled");
    }
  }
  /// Those that are let down say so in their own words.
  void rephrase(std::int64_t who) const {
    try {
      leave(who, "throws", "barrier");
    } catch (const forge::Error&) {
      throw std::logic_error("my own words");
    }
  }
  std::int64_t sum(std::int64_t value) const {
    forge::context().group().all_reduce(std::span(&value, 1), forge::Reduction::sum);
    return value;
  }

 private:
  static void meet(const std::string& collective, std::size_t size) {
    forge::Group& group = forge::context().group();
    std::vector<std::byte> bytes(size);
    std::vector<std::byte> all(size * static_cast<std::size_t>(group.procs()));
    if (collective == "barrier") group.barrier();
    if (collective == "broadcast") group.broadcast(bytes, 0);
    if (collective == "all_reduce")
      group.all_reduce(forge::DType::u8, bytes, forge::Reduction::sum);
    if (collective == "all_gather") group.all_gather(bytes, all);
    if (collective == "wrong") group.broadcast(bytes, 99);
  }
  std::function<void()> in_setup_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Leaver, std::string, std::int64_t, std::string>("Leaver", "One rank leaves.")
      .endpoint("leave", &Leaver::leave)
      .endpoint("rephrase", &Leaver::rephrase)
      .endpoint("sum", &Leaver::sum);
  m.actor<Together>("Together", "Ranks that talk to each other.")
      .endpoint("met_in_setup", &Together::met_in_setup)
      .endpoint("who", &Together::who)
      .endpoint("reduce", &Together::reduce)
      .endpoint("sum", &Together::sum)
      .batched_endpoint("sums", &Together::sums,
                        {.batch_size = 4, .batch_timeout = std::chrono::milliseconds(20)})
      .endpoint("broadcast", &Together::broadcast)
      .endpoint("broadcast_tensor", &Together::broadcast_tensor)
      .endpoint("gather", &Together::gather)
      .endpoint("barrier", &Together::barrier)
      .endpoint("differ", &Together::differ)
      .endpoint("skip", &Together::skip)
      .endpoint("hang", &Together::hang)
      .endpoint("by_kept_reference", &Together::by_kept_reference)
      .endpoint("pid", &Together::pid);
  m.actor<Late>("Late", "Ranks that talk late, or never.")
      .endpoint("plain", &Late::plain)
      .endpoint("met", &Late::met)
      .endpoint("stream", &Late::stream);
}

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;

class Groups : public ::testing::TestWithParam<int> {
 protected:
  Service start(const std::string& actor = "Together") {
    return actors_.actor(actor)
        .options({.procs = GetParam(),
                  .return_first_rank_result = false,
                  .name = "ranks",
                  .restart = restart_at_once()})
        .as_service();
  }
  template <class T, class... Args>
  std::vector<T> of_all(const Service& service, const char* endpoint, const Args&... args) {
    const auto answers = value_of(service.endpoint<ValueMesh<T>(Args...)>(endpoint).route(args...));
    std::vector<T> result;
    for (const auto& [rank, answer] : answers) result.push_back(answer);
    EXPECT_EQ(result.size(), static_cast<std::size_t>(GetParam()));
    return result;
  }

  Controller controller_{quiet()};
  Plugin actors_ = controller_.self();
};
INSTANTIATE_TEST_SUITE_P(Procs, Groups, ::testing::Values(1, 2, 4));

TEST_P(Groups, RanksMeetInSetupAndInCalls) {
  const Service service = start();
  Numbers all;
  for (int rank = 0; rank < GetParam(); ++rank) all.push_back(100 + rank);
  EXPECT_THAT(of_all<Numbers>(service, "met_in_setup"), Each(all));
  for (int rank = 0; const Numbers& who : of_all<Numbers>(service, "who"))
    EXPECT_EQ(who, (Numbers{rank++, GetParam()}));
  const std::int64_t ranks = GetParam() * (GetParam() - 1) / 2;
  for (std::int64_t i = 0; i < 200; ++i) {
    EXPECT_THAT(of_all<std::int64_t>(service, "sum", i), Each(i * GetParam() + ranks));
  }
}

TEST_P(Groups, FloatsAreReducedToTheSameBitsEverywhere) {
  const Service service = start();
  for (const std::int64_t count : {1, 1000, 200'000}) {  // the last takes several chunks
    for (const Reduction reduction : {Reduction::sum, Reduction::max}) {
      std::vector<float> expected;
      for (std::int64_t i = 0; i < count; ++i) {
        float value = Together::element(0, i);
        for (int rank = 1; rank < GetParam(); ++rank) {
          const float other = Together::element(rank, i);
          value = reduction == Reduction::sum ? value + other : std::max(value, other);
        }
        expected.push_back(value);
      }
      const auto results =
          of_all<Tensor>(service, "reduce", count, static_cast<std::int64_t>(reduction));
      for (const Tensor& result : results) {
        ASSERT_EQ(result.bytes().size(), expected.size() * sizeof(float));
        EXPECT_EQ(std::memcmp(result.bytes().data(), expected.data(), result.bytes().size()), 0);
      }
    }
  }
}

TEST_P(Groups, BroadcastCopiesTheRootsBytes) {
  const Service service = start();
  for (std::int64_t root = 0; root < GetParam(); ++root) {
    for (const std::int64_t size : {0, 1, 1'000'000}) {
      const Bytes expected(static_cast<std::size_t>(size), static_cast<std::byte>(root + 1));
      EXPECT_THAT(of_all<Bytes>(service, "broadcast", size, root), Each(expected));
    }
  }
  Tensor tensor(DType::f64, {3, 5});
  for (double i = 0; double& value : tensor.span<double>()) value = ++i;
  for (const Tensor& result : of_all<Tensor>(service, "broadcast_tensor", tensor)) {
    EXPECT_TRUE(std::ranges::equal(result.span<const double>(),
                                   std::as_const(tensor).span<const double>()));
  }
}

TEST_P(Groups, AllGatherStacksTheRanks) {
  const Service service = start();
  for (const std::int64_t count : {1, 100'000}) {
    for (const Tensor& all : of_all<Tensor>(service, "gather", count)) {
      ASSERT_EQ((std::vector<std::int64_t>(all.shape().begin(), all.shape().end())),
                (std::vector<std::int64_t>{GetParam(), count}));
      for (std::int64_t i = 0; const std::int64_t value : all.span<const std::int64_t>())
        ASSERT_EQ(value, i++ / count);
    }
  }
}

TEST_P(Groups, NobodyLeavesABarrierBeforeAllHaveCome) {
  const Service service = start();
  for (int round = 0; round < 3; ++round) {
    std::int64_t last_came = 0;
    std::int64_t first_left = INT64_MAX;
    for (const auto& [came, left] :
         of_all<std::pair<std::int64_t, std::int64_t>>(service, "barrier")) {
      last_came = std::max(last_came, came);
      first_left = std::min(first_left, left);
    }
    EXPECT_GE(first_left, last_came);
  }
}

TEST_P(Groups, BatchesAreOneCall) {
  const Service service = start();
  const auto sum = service.endpoint<ValueMesh<std::int64_t>(std::int64_t)>("sums");
  std::vector<Future<ValueMesh<std::int64_t>>> futures;
  for (std::int64_t i = 0; i < 50; ++i) futures.push_back(sum.route(i));
  const std::int64_t ranks = GetParam() * (GetParam() - 1) / 2;
  for (std::int64_t i = 0; i < 50; ++i) {
    for (const auto& [rank, total] : value_of(std::move(futures[static_cast<std::size_t>(i)])))
      EXPECT_EQ(total, i * GetParam() + ranks) << rank;
  }
}

TEST_P(Groups, AGroupMayBeWantedLateOrNever) {
  const Service service = start("Late");
  for (int i = 0; i < 20; ++i) EXPECT_THAT(of_all<std::int64_t>(service, "plain"), Each(1));
  for (int i = 0; i < 20; ++i) EXPECT_THAT(of_all<std::int64_t>(service, "met"), Each(GetParam()));
  EXPECT_THAT(of_all<std::string>(service, "stream"), Each(HasSubstr("no CUDA stream")));
}

class Alone : public Groups {};
INSTANTIATE_TEST_SUITE_P(Procs, Alone, ::testing::Values(1));

TEST_P(Alone, ACallToOneRankIsACallToAll) {
  const ActorMesh mesh = actors_.actor("Together").as_actor();
  EXPECT_EQ(value_of(mesh.endpoint<std::int64_t(std::int64_t)>("sum").choose(5)), 5);
  EXPECT_EQ(value_of(mesh.endpoint<std::int64_t()>("by_kept_reference").choose()), 1);
}

class Several : public Groups {};
INSTANTIATE_TEST_SUITE_P(Procs, Several, ::testing::Values(2, 4));

TEST_P(Several, CollectivesThatDifferFailAndTheNextCallIsFine) {
  const Service service = start();
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(error_of<ActorError>(service.endpoint<void()>("differ").route()),
                AllOf(HasSubstr("InvalidArgument"), HasSubstr("barrier"), HasSubstr("broadcast")));
    of_all<std::int64_t>(service, "sum", std::int64_t{1});
  }
}

TEST_P(Several, ARankThatGoesOnIsNotWaitedFor) {
  const Service service = start();
  auto skipped = service.endpoint<void()>("skip").route();
  auto sum = service.endpoint<ValueMesh<std::int64_t>(std::int64_t)>("sum").route(1);
  EXPECT_THAT(error_of<ActorError>(std::move(skipped)),
              AllOf(HasSubstr("InvalidArgument"),
                    AnyOf(HasSubstr("returned from the call"), HasSubstr("gone on to another call"),
                          HasSubstr("because the ranks' calls differ"))));
  EXPECT_EQ(value_of(std::move(sum)).size(), static_cast<std::size_t>(GetParam()));
}

TEST_P(Several, ADeathInTheMiddleEndsTheCallAndTheNextLifeMeetsAgain) {
  const Footprint before = Footprint::now();
  {
    const Service service = start();
    for (std::uint64_t life = 1; life <= 5; ++life) {
      auto hangs = service.endpoint<void()>("hang").route();
      EXPECT_FALSE(hangs.wait_for(20ms));
      const auto pids = pids_of(service);
      ASSERT_EQ(pids.size(), static_cast<std::size_t>(GetParam()));
      // A rank that waits, or the one that is waited for.
      kill_and_wait(pids.at(life % 2 == 0 ? 0 : pids.size() - 1));
      EXPECT_EQ(outcome(await(std::move(hangs))), "worker_lost");
      ASSERT_TRUE(wait_restarted(service, 0, life));
      of_all<Tensor>(service, "gather", std::int64_t{100'000});
      of_all<std::int64_t>(service, "sum", std::int64_t{1});
    }
  }
  EXPECT_TRUE(returns_to(before));
}

TEST_P(Several, ACallToOneRankHasNoGroup) {
  ActorMesh mesh = actors_.actor("Together").options({.procs = GetParam()}).as_actor();
  const auto sum = mesh.endpoint<std::int64_t(std::int64_t)>("sum");
  const auto kept = mesh.endpoint<std::int64_t()>("by_kept_reference");
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(error_of<ActorError>(sum.choose(1)),
                AllOf(HasSubstr("InvalidArgument"), HasSubstr("choose()")));
    EXPECT_THAT(error_of<ActorError>(kept.choose()),
                AllOf(HasSubstr("InvalidArgument"), HasSubstr("choose()")));
    // The ranks' rings stand at different positions now.
    for (const auto& [rank, total] : value_of(sum.call(1)))
      EXPECT_EQ(total, GetParam() + GetParam() * (GetParam() - 1) / 2) << rank;
    EXPECT_EQ(value_of(kept.call()).size(), static_cast<std::size_t>(GetParam()));
  }
}

TEST_P(Several, OneServiceDoesNotHearTheOther) {
  const Service one = start();
  const Service two = start();
  const auto sum_of = [](const Service& service) {
    return service.endpoint<ValueMesh<std::int64_t>(std::int64_t)>("sum");
  };
  std::vector<Future<ValueMesh<std::int64_t>>> ones;
  std::vector<Future<ValueMesh<std::int64_t>>> twos;
  for (int i = 0; i < 100; ++i) {
    ones.push_back(sum_of(one).route(1));
    twos.push_back(sum_of(two).route(1000));
  }
  const std::int64_t ranks = GetParam() * (GetParam() - 1) / 2;
  for (auto& future : ones) EXPECT_EQ(value_of(std::move(future)).at(0), GetParam() + ranks);
  for (auto& future : twos) EXPECT_EQ(value_of(std::move(future)).at(0), 1000 * GetParam() + ranks);
}

// ---- a rank that leaves a call in another way than its siblings

/// Whoever waits for a rank that has left would wait for an hour.
class Leaving : public ::testing::Test {
 protected:
  static constexpr std::int64_t kProcs = 3;

  Service start(const std::string& where = "", std::int64_t who = 0, const std::string& how = "") {
    return actors_.actor("Leaver")
        .options({.procs = kProcs,
                  .name = "leavers",
                  .restart = restart_at_once(),
                  .env = {{"FORGE_GROUP_TIMEOUT", "3600"}}})
        .as_service(where, who, how);
  }
  static void expect_usable(const Service& service) {
    const auto sum = service.endpoint<std::int64_t(std::int64_t)>("sum");
    EXPECT_EQ(value_of(sum.route(5)), 5 * kProcs);
    EXPECT_EQ(service.replicas().at(0).incarnation, 1U);
  }
  using Leave = void(std::int64_t, std::string, std::string);

  Controller controller_{quiet()};
  Plugin actors_ = controller_.self();
};

TEST_F(Leaving, WhatARankThrowsIsWhatTheCallerGets) {
  const Service service = start();
  const auto leave = service.endpoint<Leave>("leave");
  for (const char* collective : {"barrier", "broadcast", "all_reduce", "all_gather"}) {
    for (std::int64_t who = 0; who < kProcs; ++who) {
      for (const char* how : {"throws", "throws later"}) {
        EXPECT_THAT(
            error_of<ActorError>(leave.route(who, std::string(how), std::string(collective))),
            AllOf(HasSubstr("out_of_range"), HasSubstr("enough of this"),
                  HasSubstr("rank " + std::to_string(who))))
            << collective << " " << how;
        expect_usable(service);
      }
    }
  }
}

TEST_F(Leaving, ARankThatReturnsIsNamedByThoseWhoWait) {
  const Service service = start();
  const auto leave = service.endpoint<Leave>("leave");
  for (const char* collective : {"barrier", "broadcast", "all_reduce", "all_gather"}) {
    for (std::int64_t who = 0; who < kProcs; ++who) {
      EXPECT_THAT(
          error_of<ActorError>(leave.route(who, std::string("returns"), std::string(collective))),
          AllOf(HasSubstr("InvalidArgument"),
                AnyOf(HasSubstr("rank " + std::to_string(who) + " has returned from the call"),
                      HasSubstr("has given up"))))
          << collective;
      expect_usable(service);
    }
  }
}

TEST_F(Leaving, ARankInAnotherCollectiveIsAnErrorOfAll) {
  const Service service = start();
  const auto leave = service.endpoint<Leave>("leave");
  for (std::int64_t who = 0; who < kProcs; ++who) {
    for (const char* how : {"other size", "other collective"}) {
      EXPECT_THAT(
          error_of<ActorError>(leave.route(who, std::string(how), std::string("broadcast"))),
          AllOf(HasSubstr("InvalidArgument"), HasSubstr("disagree")));
      expect_usable(service);
    }
    EXPECT_THAT(error_of<ActorError>(
                    leave.route(who, std::string("wrong argument"), std::string("barrier"))),
                AllOf(HasSubstr("from rank 99"), HasSubstr("rank " + std::to_string(who))));
    expect_usable(service);
  }
}

TEST_F(Leaving, OtherWordsForItDoNotHideTheCause) {
  const Service service = start();
  for (std::int64_t who = 0; who < kProcs; ++who) {
    EXPECT_THAT(error_of<ActorError>(service.endpoint<void(std::int64_t)>("rephrase").route(who)),
                HasSubstr("enough of this"));
    expect_usable(service);
  }
}

TEST_F(Leaving, ARankThatSeesItIsCancelledKeepsNobodyWaiting) {
  const Service service = start();
  const auto leave = service.endpoint<Leave>("leave");
  for (std::int64_t who = 0; who < kProcs; ++who) {
    CancelSource source;
    auto call = leave.with({.cancel = source.token()})
                    .route(who, std::string("cancelled"), std::string("barrier"));
    EXPECT_FALSE(call.wait_for(10ms));
    source.cancel();
    EXPECT_EQ(outcome(await(std::move(call))), "cancelled");
    expect_usable(service);
  }
}

TEST_F(Leaving, AStartFailsWithTheErrorOfTheRankThatCausedIt) {
  for (const char* where : {"constructor", "setup"}) {
    for (std::int64_t who = 0; who < kProcs; ++who) {
      auto started = actors_.actor("Leaver")
                         .options({.procs = kProcs, .env = {{"FORGE_GROUP_TIMEOUT", "3600"}}})
                         .as_service_async(std::string(where), who, std::string("throws"));
      EXPECT_THAT(error_of<ActorError>(std::move(started)),
                  AllOf(HasSubstr("enough of this"), HasSubstr("rank " + std::to_string(who))))
          << where;
    }
  }
}

}  // namespace
}  // namespace forge::e2e
