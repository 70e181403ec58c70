// The simulated service against what can be computed by hand, and the decider that ships in it.
#include "bench/forge_bench/autoscale_sim.h"

#include <gtest/gtest.h>

#include "bench/forge_bench/autoscale_plan.h"
#include "core/autoscaler.h"

namespace forge::bench {
namespace {

Traffic steady(double rate, double service_s, double duration_s) {
  Traffic traffic;
  traffic.pieces = {{0, duration_s, rate, service_s}};
  return traffic;
}
const SimScaler kStay = [](const ScalingInput& input) { return ScalingDecision{input.replicas}; };
SimScaler always(int replicas) {
  return [=](const ScalingInput&) { return ScalingDecision{replicas}; };
}

TEST(AutoscaleSim, WhatIsNotCrowdedDoesNotWait) {
  const SimRun run = simulate(steady(1, 0.5, 100), false, 1, {}, kStay, 0);
  EXPECT_EQ(run.requests, 99U);
  EXPECT_NEAR(run.latency.max() / 1e9, 0.5, 0.001);
  EXPECT_EQ(run.misses, 0U);
  EXPECT_DOUBLE_EQ(run.replica_s, 100);
}

TEST(AutoscaleSim, TwiceTheCapacityQueuesAsItMust) {
  // The k-th comes at k/2 and is done at k + 1/2: it takes (k + 1) / 2.
  const SimRun run = simulate(steady(2, 1, 100), false, 1, {.target_latency_s = 10}, kStay, 10);
  EXPECT_EQ(run.requests, 199U);
  EXPECT_NEAR(run.latency.max() / 1e9, 100, 0.1);
  EXPECT_EQ(run.misses, 199U - 19U);
  EXPECT_NEAR(run.columns.back().waiting, 100, 2);
  EXPECT_NEAR(run.columns.front().p99_ns / 1e9, 10, 0.5);
}

TEST(AutoscaleSim, AgreesWithQueueingTheory) {
  // M/D/1, Pollaczek and Khinchine: the wait is load * service / (2 * (1 - load)).
  for (const double load : {0.5, 0.8}) {
    const SimRun run = simulate(steady(load * 10, 0.1, 200'000), true, 3, {}, kStay, 0);
    EXPECT_NEAR(run.latency.mean() / 1e9, 0.1 + load * 0.1 / (2 * (1 - load)), 0.006);
  }
  // One replica that executes two at once, or two that execute one: the same queue.
  const Traffic traffic = steady(16, 0.1, 10'000);
  const SimRun one = simulate(traffic, true, 3, {.concurrency = 2}, kStay, 0);
  const SimRun two = simulate(traffic, true, 3, {.replicas = 2, .max_replicas = 2}, kStay, 0);
  EXPECT_EQ(one.latency.mean(), two.latency.mean());
}

TEST(AutoscaleSim, ReplicasCostFromTheirStartAndServeFromTheirEnd) {
  const Traffic traffic = steady(2, 1, 100);
  const SimService service{.start_s = 20, .max_replicas = 3};
  int healthy_first = 0;
  int starting_first = 0;
  int healthy_then = 0;
  const SimScaler scaler = [&](const ScalingInput& input) {
    const double now = std::chrono::duration<double>(input.now.time_since_epoch()).count();
    if (now == 29) healthy_first = input.healthy;
    if (now == 29) starting_first = input.starting;
    if (now == 31) healthy_then = input.healthy;
    return ScalingDecision{now >= 10 ? 3 : 1, "because"};
  };
  const SimRun run = simulate(traffic, false, 1, service, scaler, 0);
  EXPECT_EQ(healthy_first, 1);
  EXPECT_EQ(starting_first, 2);
  EXPECT_EQ(healthy_then, 3);
  EXPECT_DOUBLE_EQ(run.replica_s, 100 + 2 * 90);
  ASSERT_EQ(run.events.size(), 1U);
  EXPECT_EQ(run.events[0].at, 10);
  EXPECT_EQ(run.events[0].reason, "because");
}

TEST(AutoscaleSim, ReplicasThatGoFinishWhatTheyExecute) {
  const SimRun run =
      simulate(steady(0.5, 8, 100), false, 1,
               {.max_queued = 1000, .start_s = 0, .replicas = 4, .max_replicas = 4}, always(1), 0);
  EXPECT_EQ(run.latency.count(), run.requests);  // nothing is lost
  EXPECT_GT(run.replica_s, 100);
}

TEST(AutoscaleSim, AFullQueueRefuses) {
  const SimRun run = simulate(steady(10, 10, 60), false, 1, {.max_queued = 5}, kStay, 0);
  EXPECT_GT(run.refused, 500U);
  EXPECT_EQ(run.refused + run.latency.count(), run.requests);
}

TEST(AutoscaleSim, MetricsAreThoseOfTheService) {
  // Two of ten active are executed; four more would wait beyond ten.
  ScalingInput seen;
  const SimScaler look = [&](const ScalingInput& input) {
    if (input.now.time_since_epoch() < std::chrono::seconds(90)) seen = input;
    return ScalingDecision{input.replicas};
  };
  simulate(steady(30, 0.1, 100), false, 1, {.concurrency = 4}, look, 0);
  EXPECT_NEAR(seen.ongoing, 3, 0.05);
  EXPECT_NEAR(seen.utilization, 0.3, 0.005);
  EXPECT_EQ(seen.queue_depth, 0);
  EXPECT_NEAR(seen.request_rate, 30, 0.1);
  EXPECT_NEAR(seen.recent_rate, 30, 0.3);
  simulate(steady(30, 0.1, 100), false, 1, {.concurrency = 4, .max_concurrent = 1}, look, 0);
  EXPECT_EQ(seen.utilization, 1);
  EXPECT_NEAR(seen.queue_depth, 2, 0.05);
}

AutoscaleOptions options_of(const char* pattern, std::optional<double> target) {
  AutoscaleOptions options;
  options.pattern = pattern;
  options.service.max_replicas = 20;
  options.service.autoscaling.target_ongoing_requests = target;
  check(options);
  return options;
}
SimRun run_policy(const AutoscaleOptions& options, const Traffic& traffic, std::uint64_t seed) {
  core::Autoscaler scaler(options.service.autoscaling);
  return simulate(
      traffic, true, seed, sim_service(options),
      [&](const ScalingInput& input) { return scaler.decide(input); }, 0);
}

TEST(AutoscaleBars, EveryPatternKeepsTheBoundsAndDoesNotSwing) {
  for (const char* const pattern : {"step", "ramp", "diurnal", "burst", "sawtooth"}) {
    for (const auto target : {std::optional<double>(), std::optional<double>(0.7)}) {
      const AutoscaleOptions options = options_of(pattern, target);
      const Traffic traffic = traffic_of(options);
      // A slow wave dwells where the next replica is due; there a target may waver once each way.
      const int most = traffic.moves() + (target && options.pattern == "diurnal" ? 5 : 1);
      for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        SCOPED_TRACE(std::string(pattern) + (target ? ", target, " : ", thresholds, ") +
                     std::to_string(seed));
        const SimRun run = run_policy(options, traffic, seed);
        EXPECT_EQ(run.latency.count(), run.requests);
        EXPECT_LE(run.turns(), most);  // the beginning is a step, too
        for (const SimEvent& event : run.events) {
          EXPECT_GE(event.to, 1);
          EXPECT_LE(event.to, 20);
        }
      }
    }
  }
}

TEST(AutoscaleBars, AStepToFourTimesTheCapacityIsMetWithinDelayAndStart) {
  for (const auto target : {std::optional<double>(), std::optional<double>(0.7)}) {
    const AutoscaleOptions options = options_of("step", target);  // from 0.8 to 4 replicas' work
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const SimRun run = run_policy(options, traffic_of(options), seed);
      double enough_at = 0;
      for (const SimEvent& event : run.events) {
        if (event.at >= 900 && event.to >= 4 && enough_at == 0)
          enough_at = event.at + options.start_s;
      }
      // The average of 30 s must show it; an emergency does not wait for cooldowns.
      EXPECT_GT(enough_at, 0);
      EXPECT_LE(enough_at, 900 + 30 + options.start_s);
      SimRun after = run;
      std::erase_if(after.events, [](const SimEvent& event) { return event.at < 900; });
      EXPECT_LE(after.turns(), 1);
    }
  }
}

TEST(AutoscaleBars, ADayWithATargetCostsLittleMoreThanForesight) {
  const AutoscaleOptions options = options_of("diurnal", 0.8);
  const Traffic traffic = traffic_of(options);
  const SimRun run = run_policy(options, traffic, 1);
  const ForesightPlan plan = plan_ahead(traffic, true, 1, sim_service(options), run.misses);
  ASSERT_TRUE(plan.found);
  EXPECT_LE(plan.misses, run.misses);
  EXPECT_LE(run.replica_s, 1.25 * plan.replica_s);
  EXPECT_GT(run.replica_s, 0.9 * plan.replica_s);
  EXPECT_LE(run.turns(), traffic.moves() + 1);
}

TEST(AutoscaleBars, ServicesSleepAndWake) {
  AutoscaleOptions options = options_of("step", 0.7);
  options.service.min_replicas = 0;
  Traffic traffic;
  traffic.pieces = {{0, 600, 5, 0.1}, {600, 3000, 0, 0.1}, {3000, 3600, 5, 0.1}};
  const SimRun run = run_policy(options, traffic, 1);
  EXPECT_EQ(run.latency.count(), run.requests);
  ASSERT_GE(run.events.size(), 2U);
  bool slept = false;
  for (const SimEvent& event : run.events) {
    if (event.to == 0) {
      slept = true;
      EXPECT_GE(event.at, 900);
      EXPECT_LT(event.at, 3000);
    }
    if (event.from == 0) {
      EXPECT_NEAR(event.at, 3000, 3);
    }
  }
  EXPECT_TRUE(slept);
}

}  // namespace
}  // namespace forge::bench
