// The peer of the floor's probes: the least that a worker could do.
#include <unistd.h>

#include <cstring>

#include "bench/forge_bench/floor_memory.h"

namespace forge::bench {
namespace {

void bounce_line(FloorMemory& memory) {
  // This process answers odd numbers with the next even one.
  std::uint64_t seen = 0;
  for (;;) {
    const std::uint64_t value = memory.line.load(std::memory_order_acquire);
    if (value == seen) continue;
    if (value == kFloorStop) return;
    seen = value + 1;
    memory.line.store(seen, std::memory_order_release);
  }
}

template <class Answer>
void answer_rings(FloorMemory& memory, Answer answer) {
  FloorRingConsumer in(memory.requests, kFloorSlots, memory.requests_tail, memory.requests_head);
  FloorRingProducer out(memory.responses, kFloorSlots, memory.responses_tail,
                        memory.responses_head);
  for (;;) {
    const FloorSlot* slot = in.front();
    if (slot == nullptr) continue;
    if (slot->number == kFloorStop) return;
    answer(*slot);
    while (!out.try_push(*slot)) {
    }
    in.pop();
  }
}

void drain_ring(FloorMemory& memory) {
  FloorRingConsumer in(memory.requests, kFloorSlots, memory.requests_tail, memory.requests_head);
  std::uint64_t sum = 0;  // reads the slots, as a receiver would
  for (;;) {
    const FloorSlot* slot = in.front();
    if (slot == nullptr) continue;
    const std::uint64_t number = slot->number;
    sum += number;
    in.pop();
    if (number == kFloorStop) break;
  }
  memory.line.store(sum, std::memory_order_relaxed);
}

void answer_futex(FloorMemory& memory) {
  std::uint32_t seen = 0;
  for (;;) {
    const std::uint32_t value = memory.request_bell.load(std::memory_order_acquire);
    if (value == seen) {
      shm::futex_wait(memory.request_bell, seen, std::nullopt, shm::Scope::shared);
      continue;
    }
    if (value == static_cast<std::uint32_t>(kFloorStop)) return;
    seen = value;
    memory.response_bell.store(value, std::memory_order_release);
    shm::futex_wake(memory.response_bell, 1, shm::Scope::shared);
  }
}

void obey(const FloorCommand& command, FloorMemory& memory) {
  switch (command.probe) {
    case FloorProbe::line:
      return bounce_line(memory);
    case FloorProbe::rings:
      return answer_rings(memory, [](const FloorSlot&) {});
    case FloorProbe::rings_rate:
      return drain_ring(memory);
    case FloorProbe::futex:
      return answer_futex(memory);
    case FloorProbe::slab:
      return answer_rings(memory, [&](const FloorSlot& slot) {
        std::memcpy(memory.response_block(slot.number, command.slab),
                    memory.request_block(slot.number, command.slab), command.slab.block_bytes());
      });
  }
}

}  // namespace

void serve_floor(int socket, FloorMemory& memory) {
  FloorCommand command;
  const char done = 1;
  while (::read(socket, &command, sizeof(command)) == static_cast<ssize_t>(sizeof(command))) {
    obey(command, memory);
    if (::write(socket, &done, 1) != 1) return;
  }
}

}  // namespace forge::bench
