// A bar that forge has to clear: what is asked of it, what was measured, and whether that is enough.
// Pure: numbers in, verdicts and tables out.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace forge::bench {

enum class Verdict { met, missed, noisy, not_measured };
const char* to_string(Verdict verdict);

struct Bar {
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
Bar at_most(Bar bar, double value, double limit);
Bar at_least(Bar bar, double value, double limit);
/// Of something that holds or does not; `what` says what was seen.
Bar holds(Bar bar, bool met, std::string what);

/// There are some, and each was met.
bool all_met(const std::vector<Bar>& bars);

/// A line for each under a heading. `kind` is what a bar is called there: "bar" or "check".
std::string to_text(const std::vector<Bar>& bars, const std::string& kind);
/// `value` is null where it is no number.
nlohmann::ordered_json to_json(const std::vector<Bar>& bars, const std::string& kind);

}  // namespace forge::bench
