// The bars forge has to clear, each a ratio to the floor of the same minutes on the same cores.
#pragma once

#include <string>
#include <vector>

#include "bench/forge_bench/bar.h"
#include "bench/forge_bench/run.h"

namespace forge::bench {

/// Options that bars take from the command line; everything else is what the bars say.
struct BarOptions {
  std::uint64_t seed = 1;
  int runs = 5;                   ///< that count, per bar
  double duration_s = 0.8;        ///< of each
  std::vector<std::string> only;  ///< names of bar_names(); empty: all
  std::string plugin_dir;
};

/// What BarOptions::only may name; a name stands for one bar or two.
std::vector<std::string> bar_names();

/// Measures them, all in about two minutes. `floor` was made for the first two cores, with
/// room for kLargestBarSlab.
std::vector<Bar> measure_bars(const BarOptions& options, Floor& floor);
inline constexpr SlabShape kLargestBarSlab{std::uint64_t{64} << 10, 64, 2};

}  // namespace forge::bench
