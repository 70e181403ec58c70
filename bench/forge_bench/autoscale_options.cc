#include "bench/forge_bench/autoscale_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "bench/forge_bench/options.h"
#include "bench/forge_bench/text.h"
#include "core/autoscaling_options.h"

namespace forge::bench {

double parse_seconds(const char* option, const std::string& text) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"ms", 1e-3}, {"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}};
  constexpr double kMost = 31 * 86400;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  const auto* const known =
      std::ranges::find(kUnits, unit, &std::pair<std::string_view, double>::first);
  if (error == std::errc() && known != std::end(kUnits)) {
    const double seconds = number * known->second;
    if (seconds >= 0 && seconds <= kMost) return seconds;
  }
  throw UsageError(
      std::string(option) + ": '" + text +
      "' is not a time up to 31 days; write a number and ms, s, min, h or d, as in 90s");
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

void check(AutoscaleOptions& options) {
  if (!options.trace.empty() && !options.pattern.empty())
    throw UsageError("a trace and --pattern: the traffic comes from one of them; leave one out");
  if (options.peak < options.rate && options.trace.empty()) {
    throw UsageError(
        text("--peak %g is below --rate %g; exchange them", options.peak, options.rate));
  }
  if (options.pattern.empty()) options.pattern = "step";
  if (options.duration_s == 0) options.duration_s = options.pattern == "diurnal" ? 86400 : 3600;
  if (options.duration_s < 60) throw UsageError("--duration: a simulation takes a minute at least");
  if (options.service_s <= 0) throw UsageError("--service-time must be more than 0");
  if (options.target_latency_s == 0) options.target_latency_s = 5 * options.service_s;
  options.service.autoscaling.enabled = true;
  const Status status = core::check_autoscaling("", options.service);
  if (!status.ok()) throw UsageError(status.message);
}

}  // namespace forge::bench
