// Which replica a call goes to, how many may wait, and for how long.
#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "payloads.h"
#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Routing : public PayloadTest {
 protected:
  using Pid = Endpoint<std::int64_t()>;

  static std::map<std::int64_t, int> spread(const Pid& pid, int calls) {
    std::map<std::int64_t, int> result;
    for (int i = 0; i < calls; ++i) ++result[value_of(pid.route())];
    return result;
  }
};
using Fault = Routing;

TEST_F(Routing, RoundRobinSpreadsEvenly) {
  const Service service = serve({.num_replicas = 3});
  const auto pid = service.endpoint<std::int64_t()>("pid");
  const auto calls = spread(pid, 300);
  EXPECT_EQ(calls.size(), 3U);
  for (const auto& [process, count] : calls) EXPECT_EQ(count, 100) << process;

  std::vector<Future<std::int64_t>> at_once;
  for (int i = 0; i < 300; ++i) at_once.push_back(pid.route());
  std::map<std::int64_t, int> answered;
  for (auto& one : at_once) ++answered[value_of(std::move(one))];
  for (const auto& [process, count] : answered) EXPECT_EQ(count, 100) << process;

  std::mutex mutex;
  std::map<std::int64_t, int> together;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (const auto& [process, count] : spread(pid, 75)) {
        const std::lock_guard lock(mutex);
        together[process] += count;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& [process, count] : together) EXPECT_EQ(count, 200) << process;
}

TEST_F(Routing, EachEndpointHasItsOwnRouter) {
  const Service service = serve({.num_replicas = 2});
  const auto pid = service.endpoint<std::int64_t()>("pid");
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  std::set<std::int64_t> seen;
  for (int i = 0; i < 10; ++i) {
    seen.insert(value_of(pid.route()));
    value_of(same.route(i));  // would take every other turn if they shared a router
  }
  EXPECT_EQ(seen.size(), 2U);
}

TEST_F(Routing, LeastLoadedLeavesABusyReplicaAlone) {
  const Service service = serve({.num_replicas = 3});
  auto busy = service.endpoint<void(std::int64_t)>("sleep_least_loaded").route(1500);
  const auto pid = service.endpoint<std::int64_t()>("pid_least_loaded");
  const auto calls = spread(pid, 40);
  EXPECT_FALSE(busy.wait_for(0s));
  EXPECT_FALSE(calls.contains(service.replicas()[0].pids[0]));  // the first of equals was taken
  value_of(std::move(busy));
  // And a pile is spread evenly.
  std::vector<Future<void>> pile;
  for (int i = 0; i < 6; ++i)
    pile.push_back(service.endpoint<void(std::int64_t)>("sleep_least_loaded").route(20));
  for (auto& one : pile) value_of(std::move(one));
}

TEST_F(Routing, PowerOfTwoChoicesPrefersTheLessLoaded) {
  const Service service = serve({.num_replicas = 4});
  const auto pid = service.endpoint<std::int64_t()>("pid_power_of_two");
  EXPECT_EQ(spread(pid, 200).size(), 4U);
  // A loaded replica is taken only when it was picked twice: one time in sixteen.
  std::vector<Future<void>> load;
  for (int i = 0; i < 4 * 20; ++i)
    load.push_back(service.endpoint<void(std::int64_t)>("sleep_ms").route(i % 4 == 0 ? 40 : 0));
  const int slow = service.replicas()[0].pids[0];
  std::vector<Future<std::int64_t>> calls;
  for (int i = 0; i < 160; ++i) {
    calls.push_back(pid.route());
    if (i % 8 == 7 && i < 120) std::this_thread::sleep_for(1ms);
  }
  const auto on_slow =
      std::ranges::count_if(calls, [&](auto& call) { return value_of(std::move(call)) == slow; });
  EXPECT_LT(on_slow, 60);
  for (auto& one : load) value_of(std::move(one));
}

TEST_F(Routing, HashKeepsAKeyOnItsReplica) {
  const Service service = serve({.num_replicas = 4});
  const auto pid = service.endpoint<std::int64_t()>("pid_hash");
  std::map<std::string, std::int64_t> home;
  std::set<std::int64_t> used;
  for (int turn = 0; turn < 5; ++turn) {
    for (int k = 0; k < 40; ++k) {
      const std::string key = "user " + std::to_string(k);
      const std::int64_t process = value_of(pid.with({.key = key}).route());
      const auto [place, fresh] = home.emplace(key, process);
      EXPECT_EQ(place->second, process) << key;
      used.insert(process);
    }
  }
  EXPECT_EQ(used.size(), 4U);
}

// ---- routers of users

/// Does as it is told and remembers what it was asked.
struct Scripted : Router {
  enum class Deed { first, last, throw_error, throw_own, throw_int, stranger, copy };
  const Replica& get_replica(std::span<const Replica> healthy,
                             const RouteContext& context) override {
    const std::lock_guard lock(mutex);
    endpoints.emplace_back(context.endpoint);
    keys.emplace_back(context.key);
    sizes.push_back(healthy.size());
    switch (deed) {
      case Deed::first:
        return healthy.front();
      case Deed::last:
        return healthy.back();
      case Deed::throw_error:
        throw std::out_of_range("lost the map");
      case Deed::throw_own:
        throw Unavailable("closed on Sundays");
      case Deed::throw_int:
        throw 5;
      case Deed::stranger:
        return stranger;
      case Deed::copy:
        stranger = healthy.front();
        return stranger;
    }
    return healthy.front();
  }
  std::mutex mutex;
  Deed deed = Deed::first;
  std::vector<std::string> endpoints;
  std::vector<std::string> keys;
  std::vector<std::size_t> sizes;
  Replica stranger{.idx = 77};
};

TEST_F(Routing, ARouterOfTheUserDecides) {
  const auto router = std::make_shared<Scripted>();
  const Service service = serve({.num_replicas = 3, .routers = {{"pid", router}}});
  const auto pid = service.endpoint<std::int64_t()>("pid");
  const auto replicas = service.replicas();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(value_of(pid.route()), replicas[0].pids[0]);
  router->deed = Scripted::Deed::last;
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(value_of(pid.with({.key = "k"}).route()), replicas[2].pids[0]);
  EXPECT_THAT(router->endpoints, Each(std::string("pid")));
  EXPECT_THAT(router->sizes, Each(3U));
  EXPECT_EQ(router->keys.front(), "");
  EXPECT_EQ(router->keys.back(), "k");
}

TEST_F(Routing, ARouterThatFailsFailsItsCallerAlone) {
  using Deed = Scripted::Deed;
  const auto router = std::make_shared<Scripted>();
  const Service service = serve({.num_replicas = 2, .routers = {{"pid", router}}});
  const auto pid = service.endpoint<std::int64_t()>("pid");
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  const auto attempt = [&](Deed deed) {
    {
      const std::lock_guard lock(router->mutex);
      router->deed = deed;
    }
    auto before = same.route(1);
    const std::string text = error_of<InvalidArgument>(pid.route());
    EXPECT_THAT(text, HasSubstr("'pid'"));
    EXPECT_EQ(value_of(std::move(before)), 1);
    EXPECT_EQ(value_of(same.route(2)), 2);
    return text;
  };
  EXPECT_THAT(attempt(Deed::throw_error), HasSubstr("lost the map"));
  attempt(Deed::throw_int);
  EXPECT_THAT(attempt(Deed::stranger), HasSubstr("not an element"));
  attempt(Deed::copy);
  router->deed = Deed::throw_own;  // forge's own errors keep their type
  EXPECT_THAT(error_of<Unavailable>(pid.route()), HasSubstr("closed on Sundays"));
  router->deed = Deed::first;
  for (int i = 0; i < 300; ++i) value_of(pid.route());
  EXPECT_EQ(value_of(pid.fanout()).size(), 2U);
}

/// Does `deed` before it chooses.
class Busybody : public Router {
 public:
  const Replica& get_replica(std::span<const Replica> healthy, const RouteContext&) override {
    if (deed) deed();
    return healthy.front();
  }
  bool wants_load() const override {
    if (throws) throw std::logic_error("undecided");
    return true;
  }
  std::function<void()> deed;
  bool throws = false;
};

TEST_F(Routing, ARouterThatAsksAServiceIsRefused) {
  const auto router = std::make_shared<Busybody>();
  Service service = serve({.num_replicas = 2, .routers = {{"pid", router}}});
  const Service other = serve();
  const auto pid = service.endpoint<std::int64_t()>("pid");
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  const CancelSource source;
  auto open = other.endpoint<void()>("until_cancelled").with({.cancel = source.token()}).route();
  const std::vector<std::function<void()>> deeds{
      [&] { (void)service.replicas(); },
      [&] { (void)other.replicas(); },
      [&] { (void)service.spares(); },
      [&] { (void)service.counters(); },
      [&] { (void)service.get_metrics(); },
      [&] { (void)service.get_metrics_summary(); },
      [&] { (void)service.session_map(); },
      [&] { (void)service.start_session(); },
      [&] { const Session session = service.session(); },
      [&] { service.terminate_session("s"); },
      [&] { (void)service.endpoint<std::int64_t()>("pid"); },
      [&] { (void)service.allocate(DType::u8, {8}); },
      [&] { (void)same.route(1).get(); },
      [&] { (void)same.fanout(1).get(); },
      [&] { (void)open.wait_for(1ms); },
      [&] { source.cancel(); },
      [&] { service.scale(2); },
      [&] { service.restart_replicas(); },
      [&] { service.update(payloads); },
      [&] { service.shutdown(); },
      [&] { controller.load(plugin_path("payloads")); },
      [&] { controller.shutdown(); },
      [&] { serve(); },
  };
  for (std::size_t i = 0; i < deeds.size(); ++i) {
    router->deed = deeds[i];
    EXPECT_THAT(error_of<InvalidArgument>(pid.with({.timeout = 60s}).route()),
                AllOf(HasSubstr("'pid'"), HasSubstr("router")))
        << "deed " << i;
    router->deed = nullptr;
    EXPECT_GT(value_of(pid.route()), 0);
  }
  router->throws = true;
  EXPECT_THAT(error_of<InvalidArgument>(pid.route()), HasSubstr("undecided"));
  router->throws = false;
  EXPECT_EQ(value_of(same.route(1)), 1);
  source.cancel();
  error_of<Cancelled>(std::move(open));
}

TEST_F(Routing, ACallThatWaitedForAReplicaKeepsItsKey) {
  const auto router = std::make_shared<Scripted>();
  const Service service = serve({.restart = restart_at_once(), .routers = {{"pid", router}}});
  const auto pid = service.endpoint<std::int64_t()>("pid");
  ::kill(pids_of(service).at(0), SIGKILL);
  ASSERT_TRUE(wait_until([&] {  // or it is back already: on a busy machine we may miss the moment
    return !all_healthy(service) || service.replicas().at(0).incarnation > 1;
  }));
  value_of(pid.with({.key = "keep me"}).route());
  EXPECT_THAT(router->keys, Each(std::string("keep me")));
}

// ---- how many may wait

TEST_F(Fault, QueueFull) {
  const Service service = serve({.replica_max_concurrent_requests = 2, .max_queued_requests = 5});
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  std::vector<Future<void>> accepted;
  for (int i = 0; i < 7; ++i) accepted.push_back(sleep.route(i == 0 ? 300 : 0));
  auto refused = sleep.route(0);
  EXPECT_TRUE(refused.wait_for(0s));  // at once
  EXPECT_THAT(error_of<Backpressure>(std::move(refused)),
              AllOf(HasSubstr("replica 0"), HasSubstr("max_queued_requests 5")));
  for (auto& one : accepted) EXPECT_EQ(outcome(await(std::move(one))), "ok");
  EXPECT_EQ(outcome(await(sleep.route(0))), "ok");
}

TEST_F(Routing, ACallWithADeadlineWaitsForRoomInAFullQueue) {
  const Service service = serve({.replica_max_concurrent_requests = 1, .max_queued_requests = 1});
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  std::vector<Future<void>> accepted;
  accepted.push_back(sleep.route(200));
  accepted.push_back(sleep.route(0));
  EXPECT_EQ(outcome(await(sleep.route(0))), "backpressure");
  EXPECT_EQ(outcome(await(sleep.with({.timeout = 60s}).route(0))), "ok");
  for (auto& one : accepted) EXPECT_EQ(outcome(await(std::move(one))), "ok");
}

TEST_F(Routing, FanoutSharesAreBoundByTheQueueToo) {
  const Service service =
      serve({.num_replicas = 2, .replica_max_concurrent_requests = 1, .max_queued_requests = 1});
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  auto first = sleep.fanout(200);
  auto second = sleep.fanout(0);
  const auto third = value_of(sleep.fanout(0));
  ASSERT_EQ(third.size(), 2U);
  for (const auto& share : third) EXPECT_EQ(outcome(share), "backpressure");
  for (const auto& share : value_of(std::move(first))) EXPECT_EQ(outcome(share), "ok");
  const auto waited = value_of(std::move(second));
  for (const auto& share : waited) EXPECT_EQ(outcome(share), "ok");
}

TEST_F(Fault, RingFull) {
  TemporaryFolder folder;
  const Tally tally(folder);
  const Service faulty = controller.load(plugin_path("faulty")).actor("Faulty").as_service();
  const auto record = faulty.endpoint<void(std::string, std::int64_t)>("record");
  std::vector<Future<void>> all;
  for (int i = 0; i < 3000; ++i) all.push_back(record.route(tally.path(), i));
  for (auto& one : all) ASSERT_EQ(outcome(await(std::move(one))), "ok");
  const auto lines = tally.lines();
  ASSERT_EQ(lines.size(), 3000U);
  EXPECT_TRUE(std::ranges::is_sorted(lines));
}

// ---- deadlines

class Deadlines : public Routing {
 protected:
  TemporaryFolder folder;
  Tally tally{folder};
  Service faulty = controller.load(plugin_path("faulty")).actor("Faulty").as_service();
  Endpoint<void(std::string, std::int64_t)> record =
      faulty.endpoint<void(std::string, std::int64_t)>("record");
  Endpoint<void(std::string, std::int64_t, std::int64_t)> record_and_sleep =
      faulty.endpoint<void(std::string, std::int64_t, std::int64_t)>("record_and_sleep");
};

TEST_F(Deadlines, ACallThatQueuedTooLongIsNeverExecuted) {
  auto busy = record_and_sleep.route(tally.path(), 0, 400);
  ASSERT_TRUE(tally.wait_for(0));
  std::vector<Future<void>> late;  // some in the worker's ring, some in the controller's queue
  for (int i = 1; i <= 400; ++i)
    late.push_back(record.with({.timeout = 50ms}).route(tally.path(), i));
  auto last = record.with({.timeout = 1h}).route(tally.path(), 1000);
  for (auto& one : late)
    EXPECT_THAT(error_of<DeadlineExceeded>(std::move(one)),
                AllOf(HasSubstr("Faulty.record"), HasSubstr("timeout")));
  EXPECT_FALSE(busy.wait_for(0s));  // they were told at their deadline, not when their turn came
  value_of(std::move(busy));
  value_of(std::move(last));
  EXPECT_THAT(tally.lines(), ElementsAre(0, 1000));
}

TEST_F(Deadlines, ACallThatRunsTooLongIsToldAtItsDeadline) {
  auto running = record_and_sleep.with({.timeout = 50ms}).route(tally.path(), 0, 600);
  EXPECT_THAT(error_of<DeadlineExceeded>(std::move(running)), HasSubstr("may still run"));
  auto behind = record.route(tally.path(), 1);
  EXPECT_FALSE(behind.wait_for(1ms));  // the actor is still at it
  value_of(std::move(behind));
  EXPECT_THAT(tally.lines(), ElementsAre(0, 1));
  EXPECT_EQ(faulty.replicas()[0].incarnation, 1U);
}

TEST_F(Deadlines, NobodyHasToWaitForACallToExpire) {
  std::atomic<int> late{0};
  auto busy = record_and_sleep.route(tally.path(), 0, 300);
  for (int i = 1; i <= 10; ++i) {
    (void)record.with({.timeout = 20ms}).route(tally.path(), i).then([&](Result<void> result) {
      late += outcome(result) == "deadline_exceeded";
    });
  }
  EXPECT_TRUE(wait_until([&] { return late == 10; }));
  value_of(std::move(busy));
  value_of(record.route(tally.path(), 99));
  EXPECT_THAT(tally.lines(), ElementsAre(0, 99));
}

TEST_F(Deadlines, AFanoutExpiresShareByShare) {
  const Service two =
      controller.load(plugin_path("faulty"))
          .actor("Faulty")
          .options({.num_replicas = 2, .routers = {{"sleep_ms", std::make_shared<PinRouter>(1)}}})
          .as_service();
  auto busy = two.endpoint<void(std::int64_t)>("sleep_ms").route(400);
  const auto shares =
      value_of(two.endpoint<std::int64_t()>("pid").with({.timeout = 100ms}).fanout());
  ASSERT_EQ(shares.size(), 2U);
  EXPECT_EQ(outcome(shares[0]), "ok");
  EXPECT_EQ(outcome(shares[1]), "deadline_exceeded");
  value_of(std::move(busy));
}

TEST_F(Deadlines, MeshCallsHaveThemToo) {
  const ActorMesh mesh =
      controller.load(plugin_path("faulty")).actor("Faulty").options({.procs = 2}).as_actor();
  const auto sleep = mesh.endpoint<void(std::int64_t)>("sleep_ms");
  EXPECT_EQ(outcome(await(sleep.with({.timeout = 20ms}).call(300))), "deadline_exceeded");
  EXPECT_EQ(outcome(await(sleep.with({.timeout = 20ms}).choose(0))), "deadline_exceeded");
  EXPECT_EQ(outcome(await(sleep.call(0))), "ok");
}

TEST_F(Deadlines, AreLongShortOrNegativeWithoutHarm) {
  const auto pid = faulty.endpoint<std::int64_t()>("pid");
  EXPECT_GT(value_of(pid.with({.timeout = std::chrono::nanoseconds::max()}).route()), 0);
  EXPECT_GT(value_of(pid.with({.timeout = 24h * 365 * 100}).route()), 0);
  for (int i = 0; i < 50; ++i) {
    const auto result = await(pid.with({.timeout = 1ns}).route());
    EXPECT_THAT(outcome(result), ::testing::AnyOf("ok", "deadline_exceeded"));
  }
  // What is left of a budget that has been overdrawn.
  EXPECT_EQ(outcome(await(record.with({.timeout = -1ms}).route(tally.path(), 5))),
            "deadline_exceeded");
  EXPECT_EQ(tally.count(5), 0);
  // What is left of it, rounded down.
  EXPECT_EQ(outcome(await(record.with({.timeout = 0ms}).route(tally.path(), 6))),
            "deadline_exceeded");
  EXPECT_EQ(outcome(await(record.with({.timeout = 0ms}).fanout(tally.path(), 6))),
            "deadline_exceeded");
  EXPECT_EQ(tally.count(6), 0);
}

TEST(ControllerDeadlines, TheDefaultBindsCallsThatNameNone) {
  ControllerOptions options = quiet();
  options.default_timeout = 50ms;
  Controller controller(options);
  const Service faulty = controller.load(plugin_path("faulty")).actor("Faulty").as_service();
  const auto sleep = faulty.endpoint<void(std::int64_t)>("sleep_ms");
  EXPECT_EQ(outcome(await(sleep.route(300))), "deadline_exceeded");
  EXPECT_EQ(outcome(await(sleep.with({.timeout = 60s}).route(100))), "ok");
  EXPECT_EQ(outcome(await(sleep.route(0))), "ok");
  EXPECT_EQ(outcome(await(sleep.with({.timeout = std::chrono::nanoseconds::max()}).route(100))),
            "ok");
}

TEST(ControllerDeadlines, ADefaultOfZeroIsOne) {
  ControllerOptions options = quiet();
  options.default_timeout = 0s;
  Controller controller(options);
  const Service faulty = controller.load(plugin_path("faulty")).actor("Faulty").as_service();
  const auto pid = faulty.endpoint<std::int64_t()>("pid");
  EXPECT_EQ(outcome(await(pid.route())), "deadline_exceeded");
  EXPECT_EQ(outcome(await(pid.with({.timeout = 60s}).route())), "ok");
}

TEST_F(Deadlines, TheActorSeesThatNobodyWaitsAnyMore) {
  const Service service = serve();
  const auto call = service.endpoint<void()>("until_cancelled");
  const auto cancellations = service.endpoint<std::int64_t()>("cancellations");
  const auto seen = [&] {  // a worker that was late did not start the call at all
    // It ends at its deadline, so either may come first.
    EXPECT_THAT(outcome(await(call.with({.timeout = 20ms}).route())),
                ::testing::AnyOf("ok", "deadline_exceeded"));
    return value_of(cancellations.route()) > 0;
  };
  EXPECT_TRUE(wait_until(seen));
}

// ---- cancelling

using Cancelling = Deadlines;

TEST_F(Cancelling, ACallThatHasNotStartedNeverRuns) {
  const CancelSource source;
  auto busy = faulty.endpoint<void(std::int64_t)>("sleep_ms").route(200);
  const auto cancellable = record.with({.cancel = source.token()});
  std::vector<Future<void>> waiting;
  for (int i = 0; i < 400; ++i) waiting.push_back(cancellable.route(tally.path(), i));
  auto other = record.route(tally.path(), 1000);
  source.cancel();
  for (auto& one : waiting) EXPECT_EQ(outcome(await(std::move(one))), "cancelled");
  EXPECT_EQ(outcome(await(std::move(busy))), "ok");
  EXPECT_EQ(outcome(await(std::move(other))), "ok");
  EXPECT_EQ(tally.lines().size(), 1U);
  EXPECT_EQ(outcome(await(cancellable.route(tally.path(), 7))), "cancelled") << "from now on";
  EXPECT_EQ(outcome(await(record.with({.cancel = CancelSource().token()}).route(tally.path(), 8))),
            "ok")
      << "a source that is gone cancels nothing";
}

TEST_F(Cancelling, ARunningEndpointSeesIt) {
  const Service service = serve();
  const auto call = service.endpoint<void()>("until_cancelled");
  const auto cancellations = service.endpoint<std::int64_t()>("cancellations");
  const auto seen = [&] {  // a worker that was late did not start the call at all
    const CancelSource source;
    auto running = call.with({.cancel = source.token()}).route();
    std::this_thread::sleep_for(20ms);
    source.cancel();
    EXPECT_EQ(outcome(await(std::move(running))), "cancelled");
    return value_of(cancellations.route()) > 0;
  };
  EXPECT_TRUE(wait_until(seen));
}

TEST_F(Cancelling, ThreadsMayCallWhileAnotherCancels) {
  const Service service = serve({.num_replicas = 2});
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  for (int round = 0; round < 50; ++round) {
    const CancelSource source;
    std::thread canceller([&] { source.cancel(); });
    std::vector<Future<std::int64_t>> calls;
    for (int i = 0; i < 50; ++i) calls.push_back(same.with({.cancel = source.token()}).route(i));
    for (auto& one : calls)
      EXPECT_THAT(outcome(await(std::move(one))), ::testing::AnyOf("ok", "cancelled"));
    canceller.join();
  }
}

}  // namespace
}  // namespace forge::e2e
