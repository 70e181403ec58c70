// The bars of routers and batches: each a ratio between two ways to do the same, measured in turns.
#pragma once

#include "bench/forge_bench/bars.h"

namespace forge::bench {

/// One decision of each router, among 16 and 64 replicas.
Bar router_bar(int runs);
/// Small calls that are executed 64 at a time, against one by one.
Bar batch_bar(const Options& base, int runs);
/// The model with batches of 32 against none, and how long a call waits for its batch.
std::vector<Bar> digits_bars(const Options& base, Runner& runner, int runs);

}  // namespace forge::bench
