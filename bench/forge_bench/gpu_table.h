// The table of `forge-bench gpu`: what was asked of the card, what it did, and whether that is enough.
// Pure: numbers in, verdicts out.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "bench/forge_bench/verdict.h"

namespace forge::bench {

struct GpuCheck {
  std::string name;
  std::string target;
  std::string measured = {};
  Verdict verdict = Verdict::not_measured;
  std::string note = {};
  double value = 0;  ///< in the target's unit
  double limit = 0;
};

/// Met if `value` is `limit` at most or at least; what is no number is missed either way. The text of
/// the value is for the caller to give.
GpuCheck at_most(GpuCheck check, double value, double limit);
GpuCheck at_least(GpuCheck check, double value, double limit);
/// A check that something holds or does not; `what` says what was seen.
GpuCheck holds(GpuCheck check, bool met, std::string what);
/// Why there is nothing to be measured. Not measured is not met.
GpuCheck left_out(GpuCheck check, std::string why);

/// ‖values − expected‖ / ‖expected‖; not a number if one of the values is none. Throws
/// std::invalid_argument if there is not one expected value for each.
double relative_error(std::span<const double> values, std::span<const double> expected);

/// Exit status 0: each check that was asked for was met.
bool all_met(const std::vector<GpuCheck>& checks);
std::string to_text(const std::vector<GpuCheck>& checks);
nlohmann::ordered_json to_json(const std::vector<GpuCheck>& checks);

}  // namespace forge::bench
