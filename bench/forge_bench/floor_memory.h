// What the floor's two processes share, and the peer's side of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "shm/doorbell.h"
#include "shm/ring.h"

namespace forge::bench {

enum class FloorProbe : std::uint32_t { line, rings, rings_rate, futex, slab };

/// 64 bytes, as a small request is.
struct alignas(64) FloorSlot {
  std::uint64_t number;
  std::byte payload[56];
};

/// Slots of a ring, as many as a worker's window has.
inline constexpr std::uint64_t kFloorSlots = 256;
/// A probe ends when this number arrives.
inline constexpr std::uint64_t kFloorStop = ~std::uint64_t{0};

struct FloorMemory {
  alignas(128) std::atomic<std::uint64_t> line;
  shm::RingIndex requests_tail;   // this process
  shm::RingIndex responses_head;  // this process
  shm::RingIndex requests_head;   // the peer
  shm::RingIndex responses_tail;  // the peer
  alignas(128) shm::Word request_bell;
  alignas(128) shm::Word response_bell;
  FloorSlot requests[kFloorSlots];
  FloorSlot responses[kFloorSlots];
  // Then slab_depth request blocks and as many response blocks.

  std::byte* request_block(std::uint64_t block, std::size_t bytes) {
    return blocks() + block * stride(bytes);
  }
  std::byte* response_block(std::uint64_t block, std::uint32_t depth, std::size_t bytes) {
    return blocks() + (depth + block) * stride(bytes);
  }
  static std::size_t size(std::uint32_t depth, std::size_t bytes) {
    return sizeof(FloorMemory) + 2 * depth * stride(bytes);
  }

 private:
  static std::size_t stride(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  std::byte* blocks() { return reinterpret_cast<std::byte*>(this + 1); }
};

struct FloorCommand {
  FloorProbe probe;
  std::uint32_t slab_depth;
  std::uint64_t slab_bytes;
};

using FloorRingProducer = shm::RingProducer<FloorSlot>;
using FloorRingConsumer = shm::RingConsumer<FloorSlot>;

/// The peer's life: obeys commands from `socket` until it is closed.
void serve_floor(int socket, FloorMemory& memory);

}  // namespace forge::bench
