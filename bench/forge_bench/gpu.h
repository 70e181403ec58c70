// `forge-bench gpu`: what forge promises on a real card, checked on the one that is there. This
// program makes no CUDA call: what is to be compared with is measured by forge-gpu-floor, a program
// of its own.
#pragma once

#include <string>
#include <vector>

#include "bench/forge_bench/bar.h"

namespace forge::bench {

struct GpuOptions {
  std::vector<std::string> only;  ///< names of gpu_check_names(); empty: all
  double duration_s = 1.5;        ///< of each stretch that is timed
  double soak_s = 90;
  std::uint64_t seed = 1;
  std::string plugin_dir;
  /// On devices that the host poses as: what the checks do, not what a card does. Nothing that is
  /// compared with the card is measured then.
  bool rehearse = false;
};

std::vector<std::string> gpu_check_names();

/// Throws UsageError if there is no device, or this build has nothing for one.
std::vector<Bar> run_gpu_checks(const GpuOptions& options);

}  // namespace forge::bench
