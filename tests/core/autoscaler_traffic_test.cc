// The decider against services that are a few lines of arithmetic: whatever comes, it keeps the
// bounds, and it does not swing.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/autoscaler.h"
#include "tests/random.h"

namespace forge::core {
namespace {

using std::chrono_literals::operator""s;

/// Work flows in and out. New replicas take a while to start.
struct Fluid {
  double capacity = 10;  // requests per second of one replica
  int start_s = 10;
  double concurrent = 10;  // replica_max_concurrent_requests

  int replicas = 2;
  double waiting = 0;
  std::vector<int> up_at = {};
  std::vector<ScalingInput> past = {};

  /// One second of it; what is seen at its end.
  ScalingInput step(int now, double rate, int look_back_s) {
    std::erase_if(up_at, [&](int at) { return at <= now; });
    const int healthy = replicas - static_cast<int>(up_at.size());
    const double can = capacity * healthy;
    const double done = std::min(can, rate + waiting);
    waiting = waiting + rate - done;
    const double load = waiting + (can > 0 ? done / capacity : 0);
    ScalingInput in{.replicas = replicas, .healthy = healthy, .starting = replicas - healthy};
    const double each = load / std::max(1, healthy);
    in.utilization = healthy == 0 ? 0 : std::min(1.0, each / concurrent);
    in.queue_depth = std::max(0.0, each - concurrent);
    in.request_rate = done;
    in.ongoing = load;
    past.push_back(in);
    in.now = ScalingTime(std::chrono::seconds(now + 1000));
    in.ongoing_now = in.ongoing;
    in.queue_depth_now = in.queue_depth;
    in.utilization_now = in.utilization;
    const auto mean = [&](double ScalingInput::*what, int seconds) {
      const int n = std::min<int>(seconds, static_cast<int>(past.size()));
      double sum = 0;
      for (int i = 0; i < n; ++i) sum += past[past.size() - 1 - static_cast<std::size_t>(i)].*what;
      return sum / n;
    };
    in.recent_rate = mean(&ScalingInput::request_rate, 5);
    for (const auto what : {&ScalingInput::queue_depth, &ScalingInput::utilization,
                            &ScalingInput::request_rate, &ScalingInput::ongoing})
      in.*what = mean(what, look_back_s);
    return in;
  }
  void become(int count, int now) {
    for (int i = replicas; i < count; ++i) up_at.push_back(now + start_s);
    while (count < replicas && !up_at.empty() && static_cast<int>(up_at.size()) > count)
      up_at.pop_back();
    replicas = count;
  }
};

struct Seen {
  int turns =
      0;  // changes of direction, at most, at one rate; the first, where nothing is known, aside
  int last = 0;  // replicas
  std::string log = {};
};

/// Runs it for `seconds` per rate.
Seen run(const Autoscaling& options, Fluid fluid, int min, int max,
         const std::vector<double>& rates, int seconds) {
  Autoscaler scaler(options);
  Seen seen;
  int now = 0;
  const auto look_back =
      static_cast<int>(std::chrono::duration_cast<std::chrono::seconds>(options.look_back).count());
  for (const double rate : rates) {
    int direction = 0;
    int turns = 0;
    for (const int end = now + seconds; now < end; ++now) {
      ScalingInput in = fluid.step(now, rate, look_back);
      in.min_replicas = min;
      in.max_replicas = max;
      const ScalingDecision decision = scaler.decide(in);
      EXPECT_GE(decision.replicas, min);
      EXPECT_LE(decision.replicas, max);
      EXPECT_FALSE(decision.reason.empty());
      if (decision.replicas == in.replicas) continue;
      const int towards = decision.replicas > in.replicas ? 1 : -1;
      if (direction != 0 && towards != direction) ++turns;
      direction = towards;
      seen.log += "\n" + std::to_string(now) + " s, " + number(rate) +
                  "/s: " + std::to_string(in.replicas) + " -> " +
                  std::to_string(decision.replicas) + " " + decision.reason;
      fluid.become(decision.replicas, now);
    }
    if (now > seconds) seen.turns = std::max(seen.turns, turns);
  }
  seen.last = fluid.replicas;
  return seen;
}

TEST(AutoscalerTraffic, AStepToFourTimesTheCapacityIsFollowedWithoutSwinging) {
  for (const Autoscaling& options :
       {Autoscaling{}, Autoscaling{.target_ongoing_requests = 0.8},
        Autoscaling{.target_ongoing_requests = 3}, Autoscaling{.target_ongoing_requests = 30}}) {
    const Seen seen = run(options, {.replicas = 1}, 1, 20, {7, 40}, 4 * 3600);
    EXPECT_GE(seen.last, 4);
    EXPECT_LE(seen.turns, 1) << seen.log;
  }
}

TEST(AutoscalerTraffic, AtEachOfRandomRatesItTurnsOnceAtMost) {
  auto random = tests::seeded();
  for (int round = 0; round < 20; ++round) {
    SCOPED_TRACE(round);
    std::vector<double> rates(2 + tests::below(random, 8));
    for (double& rate : rates) rate = static_cast<double>(tests::below(random, 180));
    Fluid fluid;
    fluid.start_s = 1 + static_cast<int>(tests::below(random, 60));
    fluid.concurrent = tests::below(random, 2) == 0 ? 1 : 10;
    Autoscaling options;
    switch (tests::below(random, 3)) {
      case 0:
        break;
      case 1:
        options.target_ongoing_requests = 0.7;
        break;
      default:
        options.target_ongoing_requests = 1 + static_cast<double>(tests::below(random, 20));
    }
    options.scale_up_step = 1 + static_cast<int>(tests::below(random, 3));
    options.scale_down_step = 1 + static_cast<int>(tests::below(random, 3));
    const Seen seen = run(options, fluid, 1, 20, rates, 2 * 3600);
    EXPECT_LE(seen.turns, 1) << seen.log;
  }
}

TEST(AutoscalerTraffic, WhateverIsMeasuredTheBoundsAreKept) {
  auto random = tests::seeded();
  const auto any = [&](int end) {
    return static_cast<int>(tests::below(random, static_cast<std::uint64_t>(end)));
  };
  for (int round = 0; round < 200; ++round) {
    Autoscaling options{.scale_down_delay = std::chrono::seconds(any(20)),
                        .min_time_between_events = std::chrono::seconds(any(20)),
                        .scale_up_cooldown = std::chrono::seconds(any(20)),
                        .scale_down_cooldown = std::chrono::seconds(any(20)),
                        .scale_up_step = 1 + any(9),
                        .scale_down_step = 1 + any(9)};
    if (any(2) == 0) options.target_ongoing_requests = 0.1 + any(10);
    Autoscaler scaler(options);
    const int min = any(4);
    const int max = std::max(1, min + any(10));
    ScalingTime now{};
    for (int step = 0; step < 300; ++step) {
      ScalingInput in{.replicas = any(16), .min_replicas = min, .max_replicas = max};
      in.healthy = any(in.replicas + 1);
      in.starting = any(in.replicas - in.healthy + 1);
      in.quarantined = any(in.replicas - in.healthy - in.starting + 1);
      in.queue_depth = any(50);
      in.queue_depth_now = any(50);
      in.utilization = any(101) / 100.0;
      in.utilization_now = any(101) / 100.0;
      in.request_rate = any(1000);
      in.recent_rate = any(1000);
      in.ongoing = any(500);
      in.ongoing_now = any(500);
      now += std::chrono::seconds(any(10) - 2);  // sometimes back
      in.now = now;
      const ScalingDecision decision = scaler.decide(in);
      EXPECT_GE(decision.replicas, min);
      EXPECT_LE(decision.replicas, max);
    }
  }
}

}  // namespace
}  // namespace forge::core
