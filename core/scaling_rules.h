// How many replicas a service's load asks for: by thresholds, or by a target. Pure: no clock, no lock.
//
// What is done about it, and when, is the Autoscaler's matter.
#pragma once

#include <forge/autoscaling.h>
#include <forge/options.h>

#include <chrono>
#include <optional>
#include <string>

namespace forge::core {

using ScalingTime = std::chrono::steady_clock::time_point;

/// The load of one replica as it will be when all that are coming up serve, so that what is on its
/// way, new or restarting, is not asked for again.
struct SpreadLoad {
  int serving = 0;  ///< replicas without those in quarantine
  double queue_depth = 0;
  double queue_depth_now = 0;
  double utilization = 0;
  double utilization_now = 0;
  double request_rate = 0;  ///< of one replica
};
SpreadLoad spread(const ScalingInput& input);

/// Requests that wait in the whole service, now.
double waiting_now(const ScalingInput& input);

/// Autoscaling's thresholds. They move by steps, and remember since when load has been low.
class Thresholds {
 public:
  /// `emergency`: the replicas are doubled, and no fewer than a step is added. `needed`: why none can
  /// be spared however low the load looks; empty if one can.
  ScalingDecision decide(const Autoscaling& options, const ScalingInput& input, bool emergency,
                         const std::string& needed);

 private:
  ScalingDecision fewer(const Autoscaling& options, const ScalingInput& input,
                        const std::string& needed);

  std::optional<ScalingTime> low_since_;
};

/// Autoscaling's target. Remembers nothing.
ScalingDecision decide_by_target(const Autoscaling& options, const ScalingInput& input);

// For reasons, which people read.
std::string number(double value);  ///< "7.2", "0.85", "40"
std::string seconds(std::chrono::nanoseconds duration);
std::string replicas(int count);  ///< "1 replica", "2 replicas"

}  // namespace forge::core
