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
/// Blocks of the slab under way: never more than the rings hold.
inline constexpr auto kMostSlabDepth = static_cast<std::uint32_t>(kFloorSlots / 2);

/// What the slab probe sends: blocks of so many equal rows, so many blocks under way.
struct SlabShape {
  std::uint64_t row_bytes = std::uint64_t{1} << 20;
  std::uint32_t rows = 1;
  std::uint32_t depth = 4;

  std::uint64_t block_bytes() const { return row_bytes * rows; }
  std::uint64_t bytes() const { return (block_bytes() + 63) / 64 * 64 * depth; }
  friend bool operator==(const SlabShape&, const SlabShape&) = default;
};

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
  // Then the slab's request blocks and as many response blocks.

  std::byte* request_block(std::uint64_t number, const SlabShape& slab) {
    return blocks() + number % slab.depth * (slab.bytes() / slab.depth);
  }
  std::byte* response_block(std::uint64_t number, const SlabShape& slab) {
    return request_block(number, slab) + slab.bytes();
  }
  /// With room for slabs of so many bytes.
  static std::size_t size(std::uint64_t slab_bytes) { return sizeof(FloorMemory) + 2 * slab_bytes; }

 private:
  std::byte* blocks() { return reinterpret_cast<std::byte*>(this + 1); }
};

struct FloorCommand {
  FloorProbe probe;
  SlabShape slab;
};

using FloorRingProducer = shm::RingProducer<FloorSlot>;
using FloorRingConsumer = shm::RingConsumer<FloorSlot>;

/// The peer's life: obeys commands from `socket` until it is closed.
void serve_floor(int socket, FloorMemory& memory);

}  // namespace forge::bench
