// What forge-bench autoscale is told on its command line.
#pragma once

#include <forge/options.h>
#include <cstdint>
#include <string>

namespace forge::bench {

struct AutoscaleOptions {
  // The traffic: recorded, or generated.
  std::string trace;    ///< a file; empty: generated
  std::string pattern;  ///< empty: step
  double rate = 8;      ///< requests per second
  double peak = 40;
  double duration_s = 0;  ///< 0: what the pattern takes
  double service_s = 0.1;
  bool poisson = true;  ///< arrivals at random; else evenly spaced
  std::uint64_t seed = 1;

  // The service. Bounds, number at the start, limits and policy are those of `service`.
  forge::Options service;
  int concurrency = 1;          ///< requests that a replica executes at once
  double start_s = 10;          ///< until a replica serves
  double target_latency_s = 0;  ///< 0: five times the service time

  int width = 100;  ///< columns of the plot
  std::string json;
};

/// Throws UsageError if what was said cannot be together; fills in what was not said.
void check(AutoscaleOptions& options);

}  // namespace forge::bench
