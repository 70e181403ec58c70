// The decider, knob by knob. What it makes of traffic is in autoscaler_traffic_test.cc.
#include "core/autoscaler.h"

#include <gmock/gmock.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace forge::core {
namespace {

using std::chrono_literals::operator""s;
using ::testing::HasSubstr;

constexpr ScalingTime kStart{std::chrono::hours(1)};

/// Four replicas with nothing to do about them.
ScalingInput usual() {
  return {.replicas = 4,
          .healthy = 4,
          .min_replicas = 1,
          .max_replicas = 8,
          .queue_depth = 2,
          .utilization = 0.5,
          .request_rate = 20,
          .ongoing = 28,
          .ongoing_now = 28,
          .queue_depth_now = 2,
          .utilization_now = 0.5,
          .now = kStart};
}
ScalingInput low() {
  ScalingInput input = usual();
  input.queue_depth = input.queue_depth_now = 0.5;
  input.utilization = input.utilization_now = 0.1;
  input.ongoing = input.ongoing_now = 6;
  return input;
}
ScalingInput high() {
  ScalingInput input = usual();
  input.queue_depth = input.queue_depth_now = 6;
  return input;
}
ScalingInput urgent() {
  ScalingInput input = usual();
  input.queue_depth = input.queue_depth_now = 30;
  return input;
}
ScalingInput idle() {
  return {.replicas = 1, .healthy = 1, .min_replicas = 0, .max_replicas = 8, .now = kStart};
}

/// Asks every second from `from` on until the number changes or `limit` has passed.
ScalingDecision ask_for(Autoscaler& scaler, ScalingInput input, std::chrono::seconds limit,
                        std::chrono::seconds* after = nullptr) {
  ScalingDecision decision;
  for (auto t = 0s; t <= limit; t += 1s) {
    decision = scaler.decide(input);
    if (after != nullptr) *after = t;
    if (decision.replicas != input.replicas) break;
    input.now += 1s;
  }
  return decision;
}

/// Once the queue has been measured.
ScalingDecision settled(Autoscaler& scaler, const ScalingInput& input) {
  return ask_for(scaler, input, kRecentWindow);
}
int decide(const Autoscaling& options, const ScalingInput& input) {
  Autoscaler scaler(options);
  return settled(scaler, input).replicas;
}

TEST(Autoscaler, StaysWhereNothingIsExceededAndSaysSo) {
  const ScalingDecision decision = Autoscaler({}).decide(usual());
  EXPECT_EQ(decision.replicas, 4);
  EXPECT_EQ(decision.reason, "queue depth 2, capacity utilization 0.5: within the thresholds");
}

TEST(Autoscaler, EachThresholdUpwardsMustBeExceeded) {
  struct Row {
    const char* what;
    double ScalingInput::*load;
    double ScalingInput::*now;
    double below, at, above;
    const char* reason;
  };
  const Row rows[] = {
      {"queue", &ScalingInput::queue_depth, &ScalingInput::queue_depth_now, 4.99, 5, 5.01,
       "queue depth 5.01 > 5"},
      {"capacity", &ScalingInput::utilization, &ScalingInput::utilization_now, 0.79, 0.8, 0.81,
       "capacity utilization 0.81 > 0.8"},
      {"rate", &ScalingInput::request_rate, &ScalingInput::request_rate, 39.9, 40, 40.4,
       "request rate 10.1 > 10/s per replica"},
  };
  for (const auto& [what, load, current, below, at, above, reason] : rows) {
    ScalingInput input = usual();
    input.*load = input.*current = below;
    EXPECT_EQ(decide({}, input), 4) << what;
    input.*load = input.*current = at;
    EXPECT_EQ(decide({}, input), 4) << what;
    input.*load = input.*current = above;
    EXPECT_EQ(decide({}, input), 5) << what;
    Autoscaler scaler({});
    EXPECT_THAT(settled(scaler, input).reason, HasSubstr(reason));
    if (current == load) continue;
    input.*current = at;  // it has passed
    EXPECT_EQ(decide({}, input), 4) << what;
  }
}

TEST(Autoscaler, TheThresholdsAreThoseOfTheOptions) {
  EXPECT_EQ(decide({.scale_up_queue_depth = 1.9}, usual()), 5);
  EXPECT_EQ(decide({.scale_up_capacity = 0.49}, usual()), 5);
  EXPECT_EQ(decide({.scale_up_request_rate = 4.9}, usual()), 5);
  EXPECT_EQ(decide({.scale_up_queue_depth = 1.9, .scale_up_step = 3}, usual()), 7);
}

TEST(Autoscaler, TheRateCountsOnlyWithAQueue) {
  ScalingInput input = usual();
  input.request_rate = 4000;
  input.queue_depth = 0.99;
  EXPECT_EQ(decide({}, input), 4);
  input.queue_depth = 1;
  EXPECT_EQ(decide({}, input), 5);
  input.queue_depth = 0;
  EXPECT_EQ(decide({.scale_down_queue_depth = 0}, input), 4);
}

TEST(Autoscaler, LoadMustBeLowForAWhile) {
  Autoscaler scaler({});
  std::chrono::seconds after{};
  const ScalingDecision decision = ask_for(scaler, low(), 400s, &after);
  EXPECT_EQ(decision.replicas, 3);
  EXPECT_EQ(after, 300s);
  EXPECT_THAT(decision.reason, HasSubstr("low for 300 s"));
}

TEST(Autoscaler, LoadIsLowBelowBothThresholds) {
  const Autoscaling at_once{.scale_down_delay = 0s};
  EXPECT_EQ(decide(at_once, low()), 3);
  ScalingInput input = low();
  input.queue_depth = 0.99;
  input.utilization = 0.29;
  EXPECT_EQ(decide(at_once, input), 3);
  input.queue_depth = 1;
  EXPECT_EQ(decide(at_once, input), 4);
  input.queue_depth = 0.99;
  input.utilization = 0.3;
  EXPECT_EQ(decide(at_once, input), 4);
  EXPECT_EQ(decide({.scale_down_delay = 0s, .scale_down_step = 2}, low()), 2);
}

TEST(Autoscaler, AMomentOfLoadBeginsTheWaitAnew) {
  Autoscaler scaler({});
  ScalingInput input = low();
  EXPECT_EQ(ask_for(scaler, input, 299s).replicas, 4);
  ScalingInput busy = usual();
  busy.now = kStart + 300s;
  EXPECT_EQ(scaler.decide(busy).replicas, 4);
  input.now = kStart + 301s;
  std::chrono::seconds after{};
  EXPECT_EQ(ask_for(scaler, input, 400s, &after).replicas, 3);
  EXPECT_EQ(after, 300s);
}

TEST(Autoscaler, NoneGoesThatTheOthersWouldMiss) {
  ScalingInput input = low();
  input.replicas = input.healthy = 3;
  input.utilization = 0.29;  // 0.87 of one
  EXPECT_EQ(decide({.scale_down_delay = 0s, .scale_down_step = 2}, input), 2);
  input.utilization = 0.2;
  EXPECT_EQ(decide({.scale_down_delay = 0s, .scale_down_step = 2}, input), 1);
}

TEST(Autoscaler, UpwardsItWaitsFromChangeToChange) {
  struct Row {
    std::chrono::seconds between, cooldown, wait;
  };
  for (const auto& [between, cooldown, wait] :
       {Row{60s, 30s, 60s}, Row{60s, 90s, 90s}, Row{0s, 0s, 5s}}) {
    Autoscaler scaler({.min_time_between_events = between, .scale_up_cooldown = cooldown});
    ScalingInput input = high();
    EXPECT_EQ(settled(scaler, input).replicas, 5);
    input.replicas = input.healthy = 5;
    input.now += kRecentWindow;
    std::chrono::seconds after{};
    EXPECT_EQ(ask_for(scaler, input, 200s, &after).replicas, 6);
    EXPECT_EQ(after, wait);
  }
}

TEST(Autoscaler, DownwardsItWaitsFromChangeToChange) {
  struct Row {
    std::chrono::seconds between, cooldown, wait;
  };
  for (const auto& [between, cooldown, wait] : {Row{60s, 120s, 120s}, Row{150s, 120s, 150s}}) {
    Autoscaler scaler({.min_time_between_events = between, .scale_down_cooldown = cooldown});
    ScalingInput input = low();
    EXPECT_EQ(ask_for(scaler, input, 300s).replicas, 3);
    input.replicas = input.healthy = 3;
    input.now = kStart + 300s;
    std::chrono::seconds after{};
    EXPECT_EQ(ask_for(scaler, input, 200s, &after).replicas, 2);
    EXPECT_EQ(after, wait);
  }
}

TEST(Autoscaler, AChangeBySomebodyElseCountsAsOne) {
  Autoscaler scaler({});
  scaler.changed(kStart);
  const ScalingDecision decision = scaler.decide(high());
  EXPECT_EQ(decision.replicas, 4);
  EXPECT_THAT(decision.reason, HasSubstr("too fresh for 60 s"));
}

TEST(Autoscaler, AnEmergencyDoublesAndDoesNotWait) {
  Autoscaler scaler({});
  scaler.changed(kStart - 10s);
  ScalingInput input = urgent();
  input.queue_depth = 20;
  EXPECT_EQ(settled(scaler, input).replicas, 4);
  input.queue_depth = 20.1;
  const ScalingDecision decision = settled(scaler, input);
  EXPECT_EQ(decision.replicas, 8);
  EXPECT_THAT(decision.reason, HasSubstr("emergency: queue depth 20.1 > 20"));
}

TEST(Autoscaler, AnEmergencyIsOneOnAverageAndNow) {
  ScalingInput input = urgent();
  input.queue_depth_now = 20;
  EXPECT_EQ(decide({}, input), 5);
}

TEST(Autoscaler, AnEmergencyKeepsTheBoundsAndTheHealthyRatio) {
  ScalingInput input = urgent();
  input.max_replicas = 6;
  EXPECT_EQ(decide({}, input), 6);
  input.max_replicas = 4;
  Autoscaler scaler({});
  const ScalingDecision decision = settled(scaler, input);
  EXPECT_EQ(decision.replicas, 4);
  EXPECT_THAT(decision.reason, HasSubstr("there are max_replicas already"));
  input = urgent();
  input.queue_depth = input.queue_depth_now = 200;
  input.healthy = 1;
  EXPECT_EQ(decide({}, input), 4);
}

TEST(Autoscaler, ASecondEmergencyWaitsForWhatTheFirstBrings) {
  Autoscaler scaler({});
  ScalingInput input = urgent();
  input.max_replicas = 100;
  EXPECT_EQ(settled(scaler, input).replicas, 8);
  input.replicas = 8;
  input.starting = 4;
  input.queue_depth = input.queue_depth_now = 60;
  input.now += kRecentWindow;
  EXPECT_EQ(ask_for(scaler, input, 20s).replicas, 8);
  input.starting = 0;
  input.healthy = 8;
  input.queue_depth = input.queue_depth_now = 30;
  input.now += 21s;  // they are up; 240 wait
  EXPECT_EQ(ask_for(scaler, input, 10s).replicas, 8);
  input.queue_depth_now = 29;
  input.now += 11s;
  EXPECT_EQ(scaler.decide(input).replicas, 8);
  input.queue_depth_now = 31;
  input.now += 1s;
  EXPECT_EQ(scaler.decide(input).replicas, 16);
}

TEST(Autoscaler, BoundsAreRepairedAtOnce) {
  Autoscaler scaler({});
  scaler.changed(kStart);
  ScalingInput input = usual();
  input.min_replicas = 6;
  EXPECT_EQ(scaler.decide(input).replicas, 6);
  input.min_replicas = 1;
  input.max_replicas = 2;
  input.healthy = 0;
  EXPECT_EQ(scaler.decide(input).replicas, 2);
}

TEST(Autoscaler, AtItsBoundsItStays) {
  ScalingInput input = high();
  input.max_replicas = 4;
  EXPECT_EQ(decide({}, input), 4);
  input = low();
  input.min_replicas = 4;
  EXPECT_EQ(decide({.scale_down_delay = 0s}, input), 4);
  input.min_replicas = 3;
  EXPECT_EQ(decide({.scale_down_delay = 0s, .scale_down_step = 3}, input), 3);
}

TEST(Autoscaler, ReplicasThatAreComingAreNotAskedForAgain) {
  ScalingInput input = high();  // 6 wait for each of 4: with 4 more, 3 for each
  input.replicas = 8;
  input.max_replicas = 16;
  input.starting = 4;
  const ScalingDecision decision = Autoscaler({}).decide(input);
  EXPECT_EQ(decision.replicas, 8);
  EXPECT_THAT(decision.reason, HasSubstr("queue depth 6 > 5 will pass when all 8 replicas serve"));
  input.starting = 0;  // the same while they restart
  EXPECT_EQ(decide({}, input), 8);
  input.quarantined = 4;  // and not if they never will
  EXPECT_EQ(decide({}, input), 9);
}

TEST(Autoscaler, WithTooFewHealthyTheNumberStays) {
  Autoscaling options{.emergency_queue_depth = 1000};
  ScalingInput input = high();
  input.queue_depth = input.queue_depth_now = 60;
  input.healthy = 1;
  EXPECT_EQ(decide(options, input), 4);
  input.healthy = 2;  // half of them
  EXPECT_EQ(decide(options, input), 5);
  options.min_healthy_ratio = 0.51;
  EXPECT_EQ(decide(options, input), 4);
  input = low();
  input.healthy = 1;
  EXPECT_EQ(decide({.scale_down_delay = 0s}, input), 4);
  input.healthy = 2;
  EXPECT_EQ(decide({.scale_down_delay = 0s}, input), 3);
}

TEST(Autoscaler, NoneGoesWhileOthersStart) {
  ScalingInput input = low();
  input.healthy = 3;
  input.starting = 1;
  EXPECT_EQ(decide({.scale_down_delay = 0s}, input), 4);
}

TEST(Autoscaler, NoneGoesThatTheRateNeeds) {
  Autoscaler scaler({.scale_down_delay = 0s});
  ScalingInput input = usual();  // each of 4 has a queue, and answers 5/s
  input.recent_rate = 20;
  for (auto t = 0s; t <= kRecentWindow; t += 1s) {
    EXPECT_EQ(scaler.decide(input).replicas, 4);
    input.now += 1s;
  }
  ScalingInput quiet = low();
  quiet.now = input.now;
  quiet.request_rate = 18;
  const ScalingDecision decision = scaler.decide(quiet);
  EXPECT_EQ(decision.replicas, 4);
  EXPECT_THAT(decision.reason, HasSubstr("18 requests/s need 4 replicas: one answers 5/s"));
  quiet.request_rate = 13.4;
  EXPECT_EQ(scaler.decide(quiet).replicas, 3);
  quiet.request_rate = 18;
  quiet.now += std::chrono::hours(25);  // it has been forgotten
  EXPECT_EQ(scaler.decide(quiet).replicas, 3);
}

TEST(Autoscaler, AnEmergencyAddsWhatIsNeededIfThatIsKnown) {
  Autoscaler scaler({});
  ScalingInput input = usual();
  input.recent_rate = 20;
  input.max_replicas = 100;
  input.queue_depth = 0.5;  // on average; now there is a queue, and 45 more a second come
  for (int i = 0; i <= 5; ++i) {
    input.queue_depth_now = 15 + 45 / 4.0 * i;
    EXPECT_EQ(scaler.decide(input).replicas, 4);
    input.now += 1s;
  }
  input.queue_depth = 50;
  input.queue_depth_now += 45 / 4.0;             // 330 wait, 65/s come, each answers 5/s
  EXPECT_EQ(scaler.decide(input).replicas, 16);  // (65 + 330 / 60) / (0.9 * 5)
}

TEST(Autoscaler, TheLastReplicaGoesWhenNothingHasComeForAWhile) {
  Autoscaler scaler({});
  std::chrono::seconds after{};
  EXPECT_EQ(ask_for(scaler, idle(), 400s, &after).replicas, 0);
  EXPECT_EQ(after, 300s);

  Autoscaler other({});
  ScalingInput input = idle();
  EXPECT_EQ(ask_for(other, input, 200s).replicas, 1);
  input.request_rate = 0.1;  // low, but not idle
  input.now += 201s;
  EXPECT_EQ(ask_for(other, input, 500s).replicas, 1);
}

TEST(Autoscaler, TheLastReplicaStaysForSessionsAndForTheBound) {
  ScalingInput input = idle();
  input.sessions = 1;
  Autoscaler scaler({});
  EXPECT_EQ(ask_for(scaler, input, 400s).replicas, 1);
  input = idle();
  input.min_replicas = 1;
  Autoscaler other({});
  EXPECT_EQ(ask_for(other, input, 400s).replicas, 1);
}

TEST(Autoscaler, TheFirstRequestWakesAtOnce) {
  Autoscaler scaler({});
  ASSERT_EQ(ask_for(scaler, idle(), 300s).replicas, 0);
  ScalingInput input = idle();
  input.replicas = input.healthy = 0;
  input.now = kStart + 301s;
  EXPECT_EQ(scaler.decide(input).replicas, 0);
  input.ongoing_now = 1;
  const ScalingDecision decision = scaler.decide(input);
  EXPECT_EQ(decision.replicas, 1);
  EXPECT_THAT(decision.reason, HasSubstr("woken"));
  input.ongoing_now = 100;
  EXPECT_EQ(decide({.target_ongoing_requests = 20}, input), 5);
  EXPECT_EQ(decide({.target_ongoing_requests = 1}, input), 8);
}

TEST(Autoscaler, TheTargetIsFollowedWithATenthOfSlack) {
  const Autoscaling options{.scale_down_delay = 0s, .target_ongoing_requests = 10};
  ScalingInput input = usual();
  const std::pair<double, int> rows[] = {{40, 4}, {44, 4},  {44.1, 5}, {50, 5},   {50.1, 6},
                                         {79, 8}, {900, 8}, {36, 4},   {27.1, 4}, {27, 3},
                                         {18, 2}, {0.5, 1}, {0, 1}};
  for (const auto& [ongoing, wanted] : rows) {
    input.ongoing = input.ongoing_now = ongoing;
    EXPECT_EQ(decide(options, input), wanted) << ongoing;
  }
}

TEST(Autoscaler, UpwardsTheTargetLooksAtThePresentToo) {
  ScalingInput input = usual();
  input.ongoing = 80;
  input.ongoing_now = 44;
  EXPECT_EQ(decide({.target_ongoing_requests = 10}, input), 4);
  input.ongoing_now = 60;
  EXPECT_EQ(decide({.target_ongoing_requests = 10}, input), 6);
}

TEST(Autoscaler, TheTargetCountsWhatServes) {
  ScalingInput input = usual();
  input.ongoing = input.ongoing_now = 40;
  input.healthy = 3;
  input.quarantined = 1;
  EXPECT_EQ(decide({.target_ongoing_requests = 10}, input), 5);
}

TEST(Autoscaler, SmoothingGoesAShareOfTheWayAndOneAtLeast) {
  ScalingInput input = usual();
  input.ongoing = input.ongoing_now = 80;
  EXPECT_EQ(decide({.target_ongoing_requests = 10, .upscale_smoothing = 0.5}, input), 6);
  EXPECT_EQ(decide({.target_ongoing_requests = 10, .upscale_smoothing = 0.01}, input), 5);
  input.ongoing = 9;
  EXPECT_EQ(
      decide({.scale_down_delay = 0s, .target_ongoing_requests = 10, .downscale_smoothing = 0.7},
             input),
      2);
  EXPECT_EQ(
      decide({.scale_down_delay = 0s, .target_ongoing_requests = 10, .downscale_smoothing = 0.01},
             input),
      3);
}

TEST(Autoscaler, TheTargetGoesDownToTheMostThatWasWanted) {
  Autoscaler scaler({.target_ongoing_requests = 10});
  ScalingInput input = usual();
  input.queue_depth_now = 0;
  input.ongoing = 9;  // 1 is wanted
  EXPECT_EQ(ask_for(scaler, input, 100s).replicas, 4);
  input.ongoing = 18;  // 2
  input.now = kStart + 101s;
  EXPECT_EQ(scaler.decide(input).replicas, 4);
  input.ongoing = 9;
  input.now = kStart + 102s;
  std::chrono::seconds after{};
  const ScalingDecision decision = ask_for(scaler, input, 400s, &after);
  EXPECT_EQ(decision.replicas, 2);
  EXPECT_EQ(after, 300s - 102s);
}

TEST(Autoscaler, TheTargetDoesNotGoBackToWhatWasTooFew) {
  Autoscaler scaler({.scale_down_delay = 0s, .target_ongoing_requests = 10});
  ScalingInput input = usual();
  input.queue_depth_now = 0;
  input.now += 30s;
  input.ongoing = input.ongoing_now = 28;
  EXPECT_EQ(scaler.decide(input).replicas, 4);
  input.ongoing = input.ongoing_now = 45;
  input.now += 30s;  // before, averages are noise
  EXPECT_EQ(scaler.decide(input).replicas, 5);
  input.replicas = input.healthy = 5;
  input.ongoing = input.ongoing_now = 30;  // of as many requests, they only wait less
  input.now += 120s;
  input.request_rate = 19;
  const ScalingDecision decision = scaler.decide(input);
  EXPECT_EQ(decision.replicas, 5);
  EXPECT_THAT(decision.reason, HasSubstr("4 replicas were too few for 20 requests/s"));
  input.request_rate = 18.9;
  input.now += 1s;
  EXPECT_EQ(scaler.decide(input).replicas, 4);
}

struct Scripted : ScalingPolicy {
  ScalingDecision decide(const ScalingInput& input) override {
    if (says < -100) throw std::runtime_error("no idea");
    return {says, "asked at " + std::to_string(input.replicas), urgent};
  }
  int says = 0;
  bool urgent = false;
};

TEST(Autoscaler, AnOwnPolicyIsAskedAndKeptWithinTheRules) {
  const auto policy = std::make_shared<Scripted>();
  Autoscaler scaler({.policy = policy});
  ScalingInput input = usual();
  input.queue_depth_now = 0;
  policy->says = 6;
  EXPECT_EQ(scaler.decide(input).replicas, 6);
  input.replicas = input.healthy = 6;
  policy->says = 1000;
  EXPECT_EQ(scaler.decide(input).replicas, 6);  // too soon
  policy->urgent = true;
  EXPECT_EQ(scaler.decide(input).replicas, 8);
  input.replicas = input.healthy = 8;
  policy->says = -7;
  std::chrono::seconds after{};
  input.now += 1s;
  EXPECT_EQ(ask_for(scaler, input, 400s, &after).replicas, 1);
  EXPECT_EQ(after, 300s);
  policy->says = -101;
  const ScalingDecision decision = scaler.decide(input);
  EXPECT_EQ(decision.replicas, 8);
  EXPECT_THAT(decision.reason, HasSubstr("threw: no idea"));
}

TEST(Autoscaler, TimeThatStandsOrGoesBackDecidesNothing) {
  Autoscaler scaler({});
  ScalingInput input = low();
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(scaler.decide(input).replicas, 4);
  input.now -= 1000s;
  EXPECT_EQ(scaler.decide(input).replicas, 4);
  input.now = kStart + 299s;
  EXPECT_EQ(scaler.decide(input).replicas, 4);
  input.now = kStart + 300s;
  EXPECT_EQ(scaler.decide(input).replicas, 3);
  input = high();
  input.now = kStart - 500s;  // the change was at 300 s, and so is this
  EXPECT_THAT(scaler.decide(input).reason, HasSubstr("too fresh for 60 s"));
}

}  // namespace
}  // namespace forge::core
