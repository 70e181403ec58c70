// The bars of large numbers: many replicas and clients on two cores, many sessions.
#pragma once

#include "bench/forge_bench/bars.h"

namespace forge::bench {

/// 64 replicas, 64 client threads, 64 requests of each in flight: nothing is lost, nobody starves,
/// memory stays.
std::vector<Bar> many_replicas_bars(const Options& base);
/// A million calls of 10,000 sessions: each keeps its order, and once idle they leave nothing behind.
std::vector<Bar> many_sessions_bars(const Options& base);

}  // namespace forge::bench
