// The bars that are not about speed under load: what a service costs when idle, on the heap, and
// after a death.
#pragma once

#include "bench/forge_bench/bars.h"

namespace forge::bench {

/// CPU time of controller and workers while nothing is asked of them.
Bar idle_bar(const Options& base, int runs);
/// Heap allocations of the whole process per call in steady state.
Bar allocation_bar(const Options& base);
/// From SIGKILL to the first answer of the replacement.
Bar restart_bar(const Options& base, int runs);

}  // namespace forge::bench
