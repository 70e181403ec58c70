// The block pool: what a block costs, small (recycled) and large (best fit), alone and among
// others.
#include <benchmark/benchmark.h>

#include <boost/interprocess/anonymous_shared_memory.hpp>
#include <cstdint>
#include <random>
#include <vector>

#include "shm/block_pool.h"

namespace forge::shm {
namespace {

namespace bip = boost::interprocess;

constexpr std::size_t kPoolBytes = std::size_t{64} << 20;

struct PoolMemory {
  bip::mapped_region region = bip::anonymous_shared_memory(kPoolBytes);
  BlockPool pool{static_cast<std::byte*>(region.get_address()), kPoolBytes, kPoolBytes};
};

void allocate_and_free(benchmark::State& state) {
  PoolMemory memory;
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    const auto block = memory.pool.allocate(size);
    benchmark::DoNotOptimize(block);
    memory.pool.free(*block);
  }
}
BENCHMARK(allocate_and_free)->Arg(64)->Arg(4 << 10)->Arg(32 << 10)->Arg(64 << 10)->Arg(1 << 20);

/// `range(1)` blocks live at once, freed in the order in which they were made: a queue of requests.
void queue_of_blocks(benchmark::State& state) {
  PoolMemory memory;
  const auto size = static_cast<std::size_t>(state.range(0));
  std::vector<std::uint64_t> live(static_cast<std::size_t>(state.range(1)));
  for (std::uint64_t& block : live) block = *memory.pool.allocate(size);
  std::size_t oldest = 0;
  for (auto _ : state) {
    memory.pool.free(live[oldest]);
    live[oldest] = *memory.pool.allocate(size);
    oldest = oldest + 1 == live.size() ? 0 : oldest + 1;
  }
}
BENCHMARK(queue_of_blocks)->Args({64, 256})->Args({4 << 10, 256})->Args({64 << 10, 64});

/// Sizes from 64 bytes to 256 KiB, freed in random order: the heap's worst day.
void mixed_sizes(benchmark::State& state) {
  PoolMemory memory;
  std::mt19937_64 random(1);
  std::vector<std::uint64_t> live(128);
  const auto any_size = [&] { return std::size_t{64} << random() % 13; };
  for (std::uint64_t& block : live) block = *memory.pool.allocate(any_size());
  for (auto _ : state) {
    std::uint64_t& block = live[random() % live.size()];
    memory.pool.free(block);
    block = *memory.pool.allocate(any_size());
  }
}
BENCHMARK(mixed_sizes);

}  // namespace
}  // namespace forge::shm
