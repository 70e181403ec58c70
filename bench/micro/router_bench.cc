// Routers: what one decision costs, among 16 and 64 replicas whose loads change with each call.
#include <benchmark/benchmark.h>
#include <forge/router.h>

#include <cstddef>

#include "bench/forge_bench/crowd.h"

namespace forge::bench {
namespace {

template <class Chosen>
void choose(benchmark::State& state) {
  Chosen router;
  Crowd crowd(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) crowd.call(crowd.choose(router));
}
BENCHMARK(choose<RoundRobinRouter>)->Arg(16)->Arg(64);
BENCHMARK(choose<LeastLoadedRouter>)->Arg(16)->Arg(64);
BENCHMARK(choose<PowerOfTwoRouter>)->Arg(16)->Arg(64);
BENCHMARK(choose<HashRouter>)->Arg(16)->Arg(64);

}  // namespace
}  // namespace forge::bench
