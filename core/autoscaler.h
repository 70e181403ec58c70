// When a service gets more replicas or fewer. Pure: no clock, no lock, no I/O; a shell measures the
// service every kScalingPeriod, asks, and does what is decided.
//
// A policy says how many there should be (thresholds, target, or the user's); for all of them:
//
//   A1  Bounds come first. Fewer than min_replicas or more than max_replicas are repaired at once.
//   A2  From the last change on, no other for min_time_between_events; none upwards for
//       scale_up_cooldown, none downwards for scale_down_cooldown. An emergency does not wait for
//       that: more than emergency_queue_depth wait per replica, on average and now, and the queue
//       has grown since the replicas that came last are up.
//   A3  With fewer than min_healthy_ratio of the replicas healthy, the number stays: what makes them
//       fail would make others fail. Replicas that are starting do not count as unhealthy.
//   A4  None is taken away while others start; nor, for targets and own policies, unless fewer have been
//       wanted throughout scale_down_delay, and then as many as were wanted at most in that time.
//   A5  None is taken away that the present rate of requests needs: by what replicas could answer when
//       they last had queues, and by the rates at which there have been too few of them. That keeps
//       badly chosen thresholds from swinging between too few and too many, and targets, too: with
//       fewer replicas queues are longer, so that what looks like less load is the same.
//   A6  A queue is watched for two seconds, five if none has told before what a replica can do. Then
//       thresholds and targets add no more than it takes for the requests that come, and to work off
//       in a minute what waits; an emergency adds exactly these, or doubles if nothing is answered.
//   A7  The last replica goes when there has been no request for scale_down_delay and there are no
//       sessions; the first comes back with the first request.
#pragma once

#include <forge/autoscaling.h>
#include <forge/options.h>

#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "core/scaling_rules.h"

namespace forge::core {

/// How often the shell asks.
inline constexpr std::chrono::seconds kScalingPeriod{1};
/// The window of ScalingInput::recent_rate.
inline constexpr std::chrono::seconds kRecentWindow{5};

class Autoscaler {
 public:
  /// The options have been checked (autoscaling_options.h).
  explicit Autoscaler(Autoscaling options) : options_(std::move(options)) {}

  /// `replicas` of the result is how many there should be; the present number means that nothing is
  /// to be done, and the reason says why. A decision counts as carried out.
  ///
  /// `wish`: what the policy has said to about this input (ask()); none: it is asked here.
  ScalingDecision decide(const ScalingInput& input,
                         const std::optional<ScalingDecision>& wish = std::nullopt);

  /// What a user's policy says. Runs his code: not under a lock. Never throws.
  static ScalingDecision ask(ScalingPolicy& policy, const ScalingInput& input);

  /// Somebody else has changed the number of replicas.
  void changed(ScalingTime now) { last_change_ = now; }

 private:
  void watch(const ScalingInput& input);
  void learn_capacity(const ScalingInput& input);
  ScalingDecision by_target(const ScalingInput& input) const;
  bool is_emergency(const ScalingInput& input) const;
  using Wish = std::optional<ScalingDecision>;
  ScalingDecision judge(const ScalingInput& input, const Wish& said);
  ScalingDecision wish(const ScalingInput& input, bool emergency, const Wish& said);
  ScalingDecision wake(const ScalingInput& input) const;
  ScalingDecision grow(const ScalingInput& input, ScalingDecision wish, bool emergency) const;
  ScalingDecision shrink(const ScalingInput& input, ScalingDecision wish) const;
  bool still_measuring(const ScalingInput& input) const;
  bool knows_capacity(const ScalingInput& input) const;
  std::optional<int> enough(const ScalingInput& input) const;
  bool by_thresholds() const { return !options_.policy && !options_.target_ongoing_requests; }
  /// A5, and why; nothing is needed if nothing is known.
  struct Least {
    int replicas = 0;
    std::string reason = {};
  };
  Least least_for_rate(const ScalingInput& input) const;
  int most_wanted(const ScalingInput& input) const;
  std::chrono::nanoseconds left_of(std::chrono::nanoseconds cooldown, ScalingTime now) const;

  Autoscaling options_;
  Thresholds thresholds_;

  // What has been.
  std::optional<ScalingTime> seen_;         // the latest now
  std::optional<ScalingTime> last_change_;  // of the number of replicas
  std::optional<ScalingTime> idle_since_;   // without a request
  bool were_starting_ = false;
  double waiting_when_up_ = 0;  // requests, when the replicas that came last were up
  // How many were wanted in the last scale_down_delay, and when: falling, so the first is the most.
  std::deque<std::pair<ScalingTime, int>> wanted_;
  std::optional<ScalingTime> wanted_since_;
  // Which number was too few for which rate, and when.
  struct TooFew {
    double request_rate;
    ScalingTime at;
  };
  std::map<int, TooFew> too_few_;
  // With queues at all replicas, what they answer is what they can.
  std::optional<ScalingTime> saturated_since_;
  double waiting_when_saturated_ = 0;
  int saturated_ = 0;    // replicas
  double capacity_ = 0;  // requests per second of one replica; 0: not known
  ScalingTime capacity_at_{};
};

}  // namespace forge::core
