// forge-bench autoscale: the shipped decider against traffic, in virtual time.
#pragma once

#include "bench/forge_bench/autoscale_options.h"

namespace CLI {
class App;
}

namespace forge::bench {

/// What may be said. `options` must outlive the parsing.
void add_autoscale(CLI::App& app, AutoscaleOptions& options);

/// Simulates and reports. Throws UsageError. Returns the exit status.
int run_autoscale(AutoscaleOptions options);

}  // namespace forge::bench
