// The bars of a death: how soon it is seen, what it costs those who wait, and what it costs at all.
#pragma once

#include "bench/forge_bench/bars.h"

namespace forge::bench {

/// Under load, two replicas: from SIGKILL until forge says so, against a bare watcher of the same
/// process; and how much longer those wait whose replica died. Without load: the same of workers that
/// are parked.
std::vector<Bar> death_bars(const Options& base, int runs);
/// One replica and a warm spare: how much longer those wait whose replica died.
Bar spare_bar(const Options& base, int runs);
/// Memory of a life's control files, and CPU time of the controller while workers are killed.
std::vector<Bar> death_cost_bars(const Options& base, int runs);

}  // namespace forge::bench
