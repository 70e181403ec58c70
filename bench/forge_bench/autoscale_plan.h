// What one who knew all requests in advance would do: the yardstick of a policy.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/forge_bench/autoscale_sim.h"

namespace forge::bench {

struct ForesightPlan {
  double interval_s = 0;
  std::vector<int> replicas;  ///< up in each interval
  double replica_s = 0;       ///< with the time it takes to start them
  std::uint64_t misses = 0;   ///< of the target latency
  bool found = false;         ///< one that misses no more than was asked for

  double replica_hours() const { return replica_s / 3600; }
};

/// The cheapest plan that misses the target latency no oftener than `misses` times. In each interval
/// it has the replicas that its work needs plus a margin, in two shapes: a share of the work, or its
/// square root; bisection finds the smallest margin of each. It starts replicas ahead of their time.
ForesightPlan plan_ahead(const Traffic& traffic, bool poisson, std::uint64_t seed,
                         const SimService& service, std::uint64_t misses);

}  // namespace forge::bench
