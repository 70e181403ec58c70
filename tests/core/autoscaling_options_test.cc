#include "core/autoscaling_options.h"

#include <forge/autoscaling.h>
#include <gmock/gmock.h>

#include <limits>
#include <memory>

namespace forge::core {
namespace {

using std::chrono_literals::operator""ns;
using std::chrono_literals::operator""s;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Nobody : ScalingPolicy {
  ScalingDecision decide(const ScalingInput&) override { return {}; }
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Autoscaling with these, between 1 and 8.
Options with(Autoscaling scaling) {
  scaling.enabled = true;
  return {.num_replicas = 2, .min_replicas = 1, .max_replicas = 8, .autoscaling = scaling};
}

TEST(AutoscalingOptions, DefaultsAreThoseOfTheContract) {
  const Autoscaling a;
  EXPECT_FALSE(a.enabled);
  EXPECT_EQ(a.scale_up_queue_depth, 5);
  EXPECT_EQ(a.scale_up_capacity, 0.8);
  EXPECT_EQ(a.scale_up_request_rate, 10);
  EXPECT_EQ(a.emergency_queue_depth, 20);
  EXPECT_EQ(a.scale_down_capacity, 0.3);
  EXPECT_EQ(a.scale_down_queue_depth, 1);
  EXPECT_EQ(a.scale_down_delay, 300s);
  EXPECT_EQ(a.min_time_between_events, 60s);
  EXPECT_EQ(a.scale_up_cooldown, 30s);
  EXPECT_EQ(a.scale_down_cooldown, 120s);
  EXPECT_EQ(a.scale_up_step, 1);
  EXPECT_EQ(a.scale_down_step, 1);
  EXPECT_EQ(a.min_healthy_ratio, 0.5);
  EXPECT_FALSE(a.target_ongoing_requests);
  EXPECT_EQ(a.policy, nullptr);
}

TEST(AutoscalingOptions, GoodOnesPass) {
  const Options good[] = {
      {},
      with({}),
      with({.scale_up_capacity = 1, .scale_down_capacity = 0, .min_healthy_ratio = 0}),
      with({.min_healthy_ratio = 1}),
      with({.scale_down_delay = 0s,
            .min_time_between_events = 0s,
            .scale_up_cooldown = 0s,
            .scale_down_cooldown = 0s}),
      with({.emergency_queue_depth = 5}),
      with({.target_ongoing_requests = 0.7, .look_back = 60s}),
      with({.policy = std::make_shared<Nobody>()}),
      {.num_replicas = 1, .min_replicas = 0, .max_replicas = 1, .autoscaling = {.enabled = true}},
      {.num_replicas = 3, .min_replicas = 3, .max_replicas = 3},
      {.num_replicas = 4, .max_replicas = 4, .autoscaling = {.enabled = true}},
  };
  for (const Options& options : good) EXPECT_EQ(check_autoscaling("", options).message, "");
}

TEST(AutoscalingOptions, BadOnesAreNamed) {
  struct Bad {
    Options options;
    const char* says;
  };
  const Bad bad[] = {
      {{.min_replicas = -1, .max_replicas = 2}, "min_replicas is -1"},
      {{.min_replicas = 0, .max_replicas = 0}, "max_replicas is 0"},
      {{.autoscaling = {.enabled = true}}, "without max_replicas"},
      {{.num_replicas = 3, .min_replicas = 4, .max_replicas = 2}, "more than max_replicas 2"},
      {{.num_replicas = 1, .min_replicas = 2, .max_replicas = 4}, "num_replicas 1"},
      {{.num_replicas = 5, .min_replicas = 2, .max_replicas = 4}, "num_replicas 5"},
      {with({.scale_up_queue_depth = -1}), "scale_up_queue_depth is -1"},
      {with({.scale_up_queue_depth = kNan}), "scale_up_queue_depth is nan"},
      {with({.scale_up_request_rate = kInfinity}), "scale_up_request_rate is inf"},
      {with({.emergency_queue_depth = -20}), "emergency_queue_depth"},
      {with({.scale_up_capacity = 1.1}), "scale_up_capacity is 1.1; it is a share"},
      {with({.scale_down_capacity = -0.1}), "scale_down_capacity"},
      {with({.min_healthy_ratio = 1.01}), "min_healthy_ratio is 1.01"},
      {with({.scale_up_step = 0}), "scale_up_step is 0"},
      {with({.scale_down_step = -1}), "scale_down_step is -1"},
      {with({.scale_down_delay = -1s}), "scale_down_delay is -1 s"},
      {with({.min_time_between_events = -1ns}), "min_time_between_events"},
      {with({.scale_up_cooldown = -30s}), "scale_up_cooldown"},
      {with({.scale_down_cooldown = -120s}), "scale_down_cooldown"},
      {with({.scale_down_cooldown = std::chrono::nanoseconds::max()}), "scale_down_cooldown"},
      {with({.look_back = 0s}), "look_back is 0 s"},
      {with({.look_back = 61s}), "look_back is 61 s"},
      {with({.target_ongoing_requests = 0}), "target_ongoing_requests is 0"},
      {with({.target_ongoing_requests = kNan}), "target_ongoing_requests"},
      {with({.upscale_smoothing = 0}), "upscale_smoothing"},
      {with({.downscale_smoothing = -1}), "downscale_smoothing"},
      {with({.scale_up_queue_depth = 1}), "scale_down_queue_depth 1 is not below"},
      {with({.scale_up_capacity = 0.3}), "scale_down_capacity 0.3 is not below"},
      {with({.scale_up_queue_depth = 21}), "emergency_queue_depth 20 is below"},
      {with({.target_ongoing_requests = 1, .policy = std::make_shared<Nobody>()}), "leave one out"},
  };
  for (const auto& [options, says] : bad) {
    const Status status = check_autoscaling("service 'x': ", options);
    EXPECT_EQ(status.code, ErrorCode::invalid_argument) << says;
    EXPECT_THAT(status.message, StartsWith("service 'x': "));
    EXPECT_THAT(status.message, HasSubstr(says));
  }
}

TEST(AutoscalingOptions, BoundsThatAreNotSaid) {
  EXPECT_EQ(replica_bounds({.num_replicas = 3}).min, 1);
  EXPECT_EQ(replica_bounds({.num_replicas = 3}).max, 3);
  EXPECT_EQ(replica_bounds({.min_replicas = 0, .max_replicas = 7}).min, 0);
  EXPECT_EQ(replica_bounds({.min_replicas = 0, .max_replicas = 7}).max, 7);
}

}  // namespace
}  // namespace forge::core
