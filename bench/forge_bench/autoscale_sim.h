// A service in virtual time: requests arrive, wait in one queue and are executed by replicas that
// take a while to start. Discrete events; no clock, no randomness but that of the traffic.
//
// What is left out: requests wait in one queue in order, not one per replica, which is what a good
// router comes close to; replicas do not fail; there are no spares, sessions or batches.
#pragma once

#include <forge/autoscaling.h>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bench/forge_bench/autoscale_traffic.h"
#include "bench/forge_bench/stats.h"

namespace forge::bench {

struct SimService {
  int concurrency = 1;      ///< requests a replica executes at once
  int max_concurrent = 10;  ///< replica_max_concurrent_requests: more are its queue
  int max_queued = 4096;    ///< per replica; more are refused
  double start_s = 10;
  int replicas = 1;  ///< up at the beginning
  int min_replicas = 1;
  int max_replicas = 1;
  double look_back_s = 30;
  double target_latency_s = 0.5;
};
SimService sim_service(const AutoscaleOptions& options);

/// Asked every second.
using SimScaler = std::function<ScalingDecision(const ScalingInput&)>;

struct SimEvent {
  double at = 0;
  int from = 0;
  int to = 0;
  std::string reason;
};

/// A stretch of the simulation, for plots.
struct SimColumn {
  std::uint64_t arrivals = 0;
  int replicas = 0;    ///< most, those that start included
  double waiting = 0;  ///< most
  double p99_ns = 0;   ///< of those that arrived in it
};

struct SimRun {
  std::uint64_t requests = 0;
  std::uint64_t refused = 0;  ///< the queue was full
  std::uint64_t misses = 0;   ///< of the target latency; the refused are among them
  Histogram latency;
  double replica_s = 0;  ///< paid for: starting and draining included
  std::vector<SimEvent> events;
  std::vector<SimColumn> columns;

  double replica_hours() const { return replica_s / 3600; }
  /// Changes of direction. Each step of the traffic is worth one, the beginning too.
  int turns() const;
};

/// `columns`: stretches the time is divided into. 0: none.
SimRun simulate(const Traffic& traffic, bool poisson, std::uint64_t seed, const SimService& service,
                const SimScaler& scaler, int columns);

}  // namespace forge::bench
