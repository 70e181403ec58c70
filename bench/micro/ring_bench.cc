// The ring: what a push and a pop cost alone, and between two threads on two cores.
#include <benchmark/benchmark.h>

#include <memory>
#include <thread>

#include "shm/control_file.h"
#include "shm/ring.h"
#include "shm/wait_strategy.h"

namespace forge::shm {
namespace {

/// Slots and indices of one ring, in memory of this process.
template <class Slot>
struct RingMemory {
  RingIndex tail{};
  RingIndex head{};
  Slot slots[kWindow]{};

  RingProducer<Slot> producer() { return {slots, kWindow, tail, head}; }
  RingConsumer<Slot> consumer() { return {slots, kWindow, tail, head}; }
};

template <class Slot>
void push_pop_one_thread(benchmark::State& state) {
  const auto memory = std::make_unique<RingMemory<Slot>>();
  auto producer = memory->producer();
  auto consumer = memory->consumer();
  const Slot slot{};
  for (auto _ : state) {
    producer.try_push(slot);
    benchmark::DoNotOptimize(*consumer.front());
    consumer.pop();
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(push_pop_one_thread<RequestSlot>);
BENCHMARK(push_pop_one_thread<ResponseSlot>);

/// How many items a second a second thread can be given.
template <class Slot>
void one_way(benchmark::State& state) {
  const auto memory = std::make_unique<RingMemory<Slot>>();
  std::jthread other([&](const std::stop_token& stopping) {
    auto consumer = memory->consumer();
    while (!stopping.stop_requested()) {
      while (const Slot* slot = consumer.front()) {
        benchmark::DoNotOptimize(*slot);
        consumer.pop();
      }
    }
  });
  auto producer = memory->producer();
  const Slot slot{};
  for (auto _ : state) {
    while (!producer.try_push(slot)) cpu_pause();
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(one_way<RequestSlot>)->UseRealTime();
BENCHMARK(one_way<ResponseSlot>)->UseRealTime();

/// A request there and its response back.
void round_trip(benchmark::State& state) {
  const auto requests = std::make_unique<RingMemory<RequestSlot>>();
  const auto responses = std::make_unique<RingMemory<ResponseSlot>>();
  std::jthread other([&](const std::stop_token& stopping) {
    auto in = requests->consumer();
    auto out = responses->producer();
    while (!stopping.stop_requested()) {
      const RequestSlot* slot = in.front();
      if (slot == nullptr) continue;
      ResponseSlot* answer = out.try_claim();
      answer->id = slot->id;
      out.publish();
      in.pop();
    }
  });
  auto out = requests->producer();
  auto in = responses->consumer();
  for (auto _ : state) {
    out.try_push({});
    while (!in.ready()) cpu_pause();
    in.pop();
  }
}
BENCHMARK(round_trip)->UseRealTime();

}  // namespace
}  // namespace forge::shm
