// Your own scaling policy: how many replicas a service should have, by its load.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

namespace forge {

/// What a policy sees of a service, about once a second.
struct ScalingInput {
  int replicas = 0;     ///< all it has or is starting; not those that are being removed
  int healthy = 0;      ///< of them, those that serve
  int starting = 0;     ///< of them, those that were added and have not been up yet
  int quarantined = 0;  ///< of them, those that were given up and will not come back
  int min_replicas = 0;
  int max_replicas = 0;
  std::size_t sessions = 0;

  // Averages over Autoscaling::look_back:
  double queue_depth =
      0;  ///< requests that wait, beyond those that are active, per healthy replica
  double utilization = 0;   ///< active over replica_max_concurrent_requests, of the healthy; 0 to 1
  double request_rate = 0;  ///< requests that ended per second, of the whole service
  double ongoing = 0;       ///< requests active and waiting, of the whole service

  double ongoing_now = 0;      ///< likewise, at this moment
  double queue_depth_now = 0;  ///< likewise, at this moment
  double utilization_now = 0;  ///< likewise, at this moment
  double recent_rate = 0;      ///< request_rate, over the last five seconds

  std::chrono::steady_clock::time_point now{};  ///< never goes back
};

/// How many replicas there should be, and why.
struct ScalingDecision {
  int replicas = 0;
  std::string reason = {};  ///< for people, as in "queue depth 7.2 > 5"
  bool urgent = false;      ///< more of them: cooldowns do not apply
};

class ScalingPolicy {
 public:
  virtual ~ScalingPolicy() = default;
  /// How many replicas there should be if nothing stood in the way. forge keeps the bounds, the
  /// cooldowns and the healthy ratio, and waits for `scale_down_delay` before it takes any away.
  ///
  /// Called on the callback thread, one call at a time per service: it should not block. It may look at
  /// the service (replicas(), get_metrics()), but not change it. What it throws counts as "stay".
  virtual ScalingDecision decide(const ScalingInput& input) = 0;
};

}  // namespace forge
