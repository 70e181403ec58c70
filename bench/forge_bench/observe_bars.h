// The bars of looking: what forge reports is what its client sees, and looking costs nothing.
#pragma once

#include "bench/forge_bench/bars.h"

namespace forge::bench {

/// Counts, rate and p99 as a client measures them, against what metrics say.
std::vector<Bar> reported_bars(const Options& base);
/// What one who watches as `forge top` does costs the p99 of calls.
Bar watched_bar(const Options& base, int runs);
/// 64 replicas scraped by Prometheus: CPU time, and the p99 of calls meanwhile.
std::vector<Bar> scrape_bars(const Options& base, int runs);

}  // namespace forge::bench
