#include "bench/forge_bench/autoscale_options.h"

#include "bench/forge_bench/options.h"
#include "bench/forge_bench/text.h"
#include "core/autoscaling_options.h"

namespace forge::bench {

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
