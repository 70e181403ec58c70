// Doorbells: what it costs to ask, to ring with nobody asleep, and to wake somebody who is.
#include <benchmark/benchmark.h>

#include <atomic>
#include <thread>
#include <vector>

#include "shm/doorbell.h"
#include "shm/wait_strategy.h"

namespace forge::shm {
namespace {

/// The producer's half of the handshake when the other side is awake: what every message pays.
void look_whether_parked(benchmark::State& state) {
  alignas(128) std::atomic<std::uint32_t> parked{0};
  alignas(128) std::atomic<std::uint64_t> tail{0};
  std::uint64_t next = 0;
  for (auto _ : state) {
    tail.store(++next, std::memory_order_release);
    handshake_fence();
    benchmark::DoNotOptimize(parked.load(std::memory_order_relaxed));
  }
}
BENCHMARK(look_whether_parked);

void ring_with_nobody_asleep(benchmark::State& state) {
  const auto scope = static_cast<Scope>(state.range(0));
  Word bell{0};
  for (auto _ : state) ring(bell, scope);
}
BENCHMARK(ring_with_nobody_asleep)
    ->Arg(static_cast<int>(Scope::shared))
    ->Arg(static_cast<int>(Scope::priv));

/// Two threads that wake each other and sleep.
void wake_and_be_woken(benchmark::State& state) {
  Word there{0};
  Word back{0};
  const auto sleep_until_changed = [](const Word& word, std::uint32_t seen) {
    while (word.load(std::memory_order_acquire) == seen) {
      futex_wait(word, seen, std::nullopt, Scope::shared);
    }
  };
  std::atomic<bool> stopping{false};
  std::jthread other([&] {
    for (std::uint32_t seen = 0;; ++seen) {
      sleep_until_changed(there, seen);
      if (stopping.load(std::memory_order_relaxed)) return;
      ring(back, Scope::shared);
    }
  });
  for (auto _ : state) {
    const std::uint32_t seen = back.load(std::memory_order_relaxed);
    ring(there, Scope::shared);
    sleep_until_changed(back, seen);
  }
  stopping.store(true, std::memory_order_relaxed);  // the ring below carries it over
  ring(there, Scope::shared);
}
BENCHMARK(wake_and_be_woken)->UseRealTime();

/// Waiting on many words at once when one has changed already: the price of the call.
void wait_any_at_once(benchmark::State& state) {
  if (!has_futex_waitv()) {
    state.SkipWithError("this kernel has no futex_waitv");
    return;
  }
  std::vector<Word> words(static_cast<std::size_t>(state.range(0)));
  std::vector<WaitWord> wanted;
  wanted.reserve(words.size());
  for (const Word& word : words) wanted.push_back({&word, 0, Scope::shared});
  words.back().store(1);
  for (auto _ : state) futex_wait_any(wanted, std::nullopt);
}
BENCHMARK(wait_any_at_once)->Arg(1)->Arg(8)->Arg(120);

/// A spinner's whole budget: how long an adaptive waiter stays awake in vain.
void spin_in_vain(benchmark::State& state) {
  for (auto _ : state) {
    Spinner spinner(Wait::adaptive);
    while (spinner.keep_spinning()) {
    }
  }
}
BENCHMARK(spin_in_vain);

}  // namespace
}  // namespace forge::shm
