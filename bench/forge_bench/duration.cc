#include "bench/forge_bench/duration.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "bench/forge_bench/options.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {

std::chrono::nanoseconds parse_duration(const char* option, const std::string& text,
                                        std::chrono::nanoseconds most) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"ns", 1},  {"us", 1e3},   {"µs", 1e3},   {"ms", 1e6},
      {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}, {"d", 86400e9}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  const auto* const known =
      std::ranges::find(kUnits, unit, &std::pair<std::string_view, double>::first);
  if (error == std::errc() && known != std::end(kUnits)) {
    const double ns = number * known->second;
    if (ns >= 0 && ns <= static_cast<double>(most.count()))
      return std::chrono::nanoseconds(std::llround(ns));
  }
  throw UsageError(std::string(option) + ": '" + text + "' is not a time of at most " +
                   format_seconds(std::chrono::duration<double>(most).count()) +
                   "; write a number and ns, us, ms, s, min, h or d, as in 10ms");
}

std::string format_seconds(double seconds) {
  const auto in = [&](double unit, const char* name) {
    return text("%.3g ", seconds / unit) + name;
  };
  if (seconds < 1) return in(1e-3, "ms");
  if (seconds < 600) return in(1, "s");
  if (seconds < 7200) return in(60, "min");
  return in(3600, "h");
}

}  // namespace forge::bench
