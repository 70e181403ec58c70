// More and fewer replicas, while they serve.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/e2e/fixture.h"
#include "tests/e2e/recorders.h"

namespace forge::e2e {
namespace {

using Echo = std::int64_t(std::int64_t);
using Numbers = std::vector<std::int64_t>;

class Scaling : public FaultyTest {
 protected:
  static std::size_t wanted(const Service& service) { return service.get_metrics().total_replicas; }
};
class ScalingOf : public Scaling, public ::testing::WithParamInterface<int> {
 protected:
  void serve(int procs);
};
INSTANTIATE_TEST_SUITE_P(Ranks, ScalingOf, ::testing::Values(1, 2));

TEST_P(ScalingOf, NoRequestFailsAndEachRunsOnce) {
  const Footprint before = Footprint::now();
  serve(GetParam());
  EXPECT_TRUE(returns_to(before));
}

void ScalingOf::serve(int procs) {
  Service service = start({.procs = procs, .num_replicas = 1, .max_replicas = 4});
  Recorders recorders(service, tally_, 2);
  for (const int count : {4, 1, 3, 2, 1}) {
    service.scale(count);
    EXPECT_EQ(service.replicas().size(), static_cast<std::size_t>(count));
    EXPECT_EQ(wanted(service), static_cast<std::size_t>(count));
    EXPECT_TRUE(all_healthy(service));
  }
  recorders.expect_nothing_lost(procs);
}

TEST_F(Scaling, NewReplicasAreAskedAndOldOnesAreNot) {
  Service service = start({.num_replicas = 1, .max_replicas = 3});
  const auto echo = service.endpoint<Echo>("echo");
  EXPECT_EQ(echo.fanout(1).get().size(), 1U);
  service.scale(3);
  EXPECT_EQ(echo.fanout(1).get().size(), 3U);
  service.scale(2);
  EXPECT_EQ(echo.fanout(1).get().size(), 2U);
  EXPECT_EQ(service.get_metrics_summary().replicas.size(), 3U) << "what it counted stays";
}

TEST_F(Scaling, StaysBetweenItsBounds) {
  Service service = start({.num_replicas = 2, .max_replicas = 3});
  for (const int count : {-1, 0, 4}) {
    try {
      service.scale(count);
      ADD_FAILURE() << count;
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find("1 to 3 replicas"), std::string::npos)
          << error.what();
    }
  }
  for (const auto& [least, most] : {std::pair{3, 4}, {0, 1}, {-1, 2}})
    EXPECT_THROW((void)start({.num_replicas = 2, .min_replicas = least, .max_replicas = most}),
                 InvalidArgument);
}

TEST_F(Scaling, FirstRequestWakesAServiceWithoutReplicas) {
  Service service = start({.num_replicas = 2, .min_replicas = 0});
  service.scale(0);
  EXPECT_TRUE(service.replicas().empty());
  EXPECT_EQ(service.endpoint<Echo>("echo").route(7).get(), 7);
  EXPECT_EQ(wanted(service), 1U);
  service.scale(0);
  EXPECT_EQ(service.endpoint<Echo>("echo").with({.sess_id = "mine"}).route(8).get(), 8);
}

TEST_F(Scaling, FanoutWakesAServiceWithoutReplicasToo) {
  Service service = start({.num_replicas = 2, .min_replicas = 0});
  const auto echo = service.endpoint<Echo>("echo");
  service.scale(0);
  // The second finds one that is on its way.
  auto first = echo.with({.timeout = kPatience}).fanout(7);
  auto second = echo.fanout(8);
  auto in_session = echo.with({.sess_id = "mine"}).fanout(9);
  for (auto* const future : {&first, &second, &in_session}) {
    const auto shares = await(std::move(*future)).value();
    ASSERT_EQ(shares.size(), 1U);
    EXPECT_EQ(outcome(shares.front()), "ok");
  }
  EXPECT_EQ(wanted(service), 1U);
  EXPECT_TRUE(service.session_map().contains("mine"));
  service.scale(0);
  EXPECT_EQ(outcome(await(echo.with({.timeout = 1ns}).fanout(1))), "deadline_exceeded");
}

TEST_F(Scaling, SparesComeFirst) {
  Service service = start({.num_replicas = 1, .max_replicas = 2, .spares = 1});
  const std::vector<int> ready = service.spares().at(0).pids;
  service.scale(2);
  EXPECT_EQ(service.replicas().at(1).pids, ready);
  EXPECT_EQ(service.counters().takeovers, 1U);
}

TEST_F(Scaling, SharesAreAnsweredByTheReplicaThatLeaves) {
  Service service = start({.num_replicas = 2, .replica_max_concurrent_requests = 1});
  std::vector<Future<std::vector<Result<void>>>> shares;
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  for (int i = 0; i < 300; ++i) shares.push_back(sleep.fanout(i == 0 ? 50 : 0));
  service.scale(1);
  for (auto& future : shares) {
    for (const auto& share : future.get()) EXPECT_TRUE(share.has_value());
  }
  EXPECT_EQ(service.replicas().size(), 1U);
}

TEST_F(Scaling, OneThatDiesWhileItLeavesLosesNothing) {
  Service service = start({.num_replicas = 2, .restart = restart_at_once()});
  auto running = service.endpoint<void(std::int64_t)>("sleep_ms").fanout(300);
  std::vector<Future<std::vector<Result<std::int64_t>>>> shares;
  for (int i = 0; i < 400; ++i) shares.push_back(service.endpoint<Echo>("echo").fanout(i));
  const int pid = service.replicas().at(1).pids.at(0);
  std::thread killer([&] {
    std::this_thread::sleep_for(100ms);
    ::kill(pid, SIGKILL);
  });
  service.scale(1);
  killer.join();
  std::size_t lost = 0;
  for (const auto& share : running.get()) lost += !share.has_value();
  EXPECT_EQ(lost, 1U) << "what it was running, and nothing else";
  for (auto& future : shares) {
    for (const auto& share : future.get()) EXPECT_TRUE(share.has_value());
  }
  EXPECT_EQ(service.replicas().size(), 1U);
}

TEST_F(Scaling, LoadBringsReplicasAndItsEndTakesThemAway) {
  const Autoscaling quick{.enabled = true,
                          .scale_up_queue_depth = 2,
                          .scale_down_delay = 1s,
                          .min_time_between_events = 0s,
                          .scale_up_cooldown = 0s,
                          .scale_down_cooldown = 0s,
                          .look_back = 1s};
  Service service = start({.num_replicas = 1,
                           .replica_max_concurrent_requests = 1,
                           .min_replicas = 1,
                           .max_replicas = 3,
                           .autoscaling = quick});
  std::atomic<bool> done{false};
  std::atomic<std::size_t> failed{0};
  std::thread client([&] {
    const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
    while (!done) {
      std::vector<Future<void>> futures;
      for (int i = 0; i < 24; ++i) futures.push_back(sleep.route(10));
      for (auto& future : futures) failed += !future.result().has_value();
    }
  });
  EXPECT_TRUE(wait_until([&] { return service.get_metrics().healthy_replicas == 3; }, 60s));
  done = true;
  client.join();
  EXPECT_EQ(failed, 0U);
  EXPECT_TRUE(wait_until([&] { return wanted(service) == 1; }, 60s));
  const MetricsSummary summary = service.get_metrics_summary();
  EXPECT_EQ(summary.service.scale_events, summary.scaling.size());
  ASSERT_GE(summary.scaling.size(), 2U);
  EXPECT_EQ(summary.scaling.front().from, 1U);
  EXPECT_EQ(summary.scaling.back().to, 1U);
  for (const ScaleEvent& event : summary.scaling) EXPECT_NE(event.reason, "");
  EXPECT_TRUE(summary.service.last_scale_event.has_value());
}

TEST_F(Scaling, IdlenessTakesTheLastReplicaAndARequestBringsItBack) {
  Service service = start({.num_replicas = 1,
                           .min_replicas = 0,
                           .max_replicas = 2,
                           .autoscaling = {.enabled = true,
                                           .scale_down_delay = 1s,
                                           .min_time_between_events = 0s,
                                           .scale_up_cooldown = 0s,
                                           .scale_down_cooldown = 0s,
                                           .look_back = 1s}});
  EXPECT_TRUE(wait_until([&] { return service.replicas().empty(); }, 60s));
  EXPECT_EQ(service.endpoint<Echo>("echo").route(7).get(), 7);
  EXPECT_EQ(service.get_metrics_summary().scaling.back().reason, "woken by a request");
}

/// Looks at its service before it says how many there should be.
class Looks : public ScalingPolicy {
 public:
  ScalingDecision decide(const ScalingInput& input) override {
    ++asked;
    if (asked == 2) throw 7;
    if (const Service* const looked_at = service) {
      healthy = static_cast<int>(looked_at->get_metrics_summary().service.healthy_replicas);
      EXPECT_EQ(looked_at->replicas().size(), static_cast<std::size_t>(input.replicas));
      return {2, "two are nice", true};
    }
    return {input.replicas, "wait"};
  }
  std::atomic<const Service*> service{nullptr};
  std::atomic<int> asked{0};
  std::atomic<int> healthy{0};
};

TEST_F(Scaling, APolicyMayLookAtItsService) {
  const auto policy = std::make_shared<Looks>();
  Service service = start({.num_replicas = 1,
                           .min_replicas = 1,
                           .max_replicas = 2,
                           .autoscaling = {.enabled = true,
                                           .min_time_between_events = 0s,
                                           .scale_up_cooldown = 0s,
                                           .policy = policy}});
  policy->service = &service;
  EXPECT_TRUE(wait_until([&] { return service.get_metrics().healthy_replicas == 2; }));
  EXPECT_TRUE(wait_until([&] { return policy->healthy == 2; }));
  policy->service = nullptr;
  const int asked = policy->asked;
  EXPECT_TRUE(wait_until([&] { return policy->asked > asked + 1; }));  // it is not there any more
}

TEST_F(Scaling, ReplicasThatRestAreNotReplaced) {
  Service service = start({.num_replicas = 1, .max_replicas = 2});
  service.scale(2);
  service.scale(1);
  EXPECT_EQ(service.endpoint<Echo>("echo").route(1).get(), 1);
  service.restart_replicas();
  EXPECT_EQ(service.replicas().size(), 1U);
  service.scale(2);
  EXPECT_TRUE(all_healthy(service));
}

TEST(ScalingSessions, TakeTheirStateAlong) {
  Controller controller(quiet());
  Service service = controller.load(plugin_path("notebook"))
                        .actor("Notebook")
                        .options({.num_replicas = 3})
                        .as_service(std::string());
  const auto append = service.endpoint<Echo>("append");
  for (int session = 0; session < 6; ++session) {
    for (int i = 0; i < 10; ++i)
      EXPECT_EQ(append.with({.sess_id = std::to_string(session)}).route(i).get(), i + 1);
  }
  service.scale(1);
  for (int session = 0; session < 6; ++session) {
    const auto numbers = service.endpoint<Numbers()>("numbers")
                             .with({.sess_id = std::to_string(session)})
                             .route()
                             .get();
    EXPECT_EQ(numbers.size(), 10U) << session;
  }
  EXPECT_GE(service.counters().restored, 4U);
}

}  // namespace
}  // namespace forge::e2e
