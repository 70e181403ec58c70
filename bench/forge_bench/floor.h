// The floor: what this machine can do at best, now, on these two cores, without an engine.
//
// Every figure of forge-bench is read against it, because a virtual machine's cores may be near
// each other or far apart, and placement alone changes a ring's speed many times over. The probes
// run between two processes that share one memfd: this one on the first core and a peer, forked
// before any thread exists, on the second.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bench/forge_bench/floor_memory.h"
#include "bench/forge_bench/stats.h"
#include "shm/segment.h"

namespace forge::bench {

/// 0 where a probe has not run.
struct FloorFigures {
  double line_rtt_ns = 0;  ///< one cache line there and back, both sides spinning
  double line_p99_ns = 0;
  double rings_rtt_ns = 0;  ///< 64 bytes through one ring and back through another, both spinning
  double rings_p99_ns = 0;
  double rings_per_s = 0;   ///< 64-byte slots one way
  double futex_rtt_ns = 0;  ///< wake, be woken; both sides sleep
  double futex_p99_ns = 0;
  double slab_gbps = 0;    ///< copy in, copied there, read here in place; request + response bytes
  double core_share = 0;   ///< of its core that the worse off of the two spinning sides got, 0 to 1
  double memcpy_gbps = 0;  ///< one core, one buffer to another, bytes copied
};

struct FloorSpec {
  int near_cpu = 0;
  int far_cpu = 1;
  std::uint64_t slab_room = SlabShape().bytes();  ///< bytes of the largest slab it will probe
};

/// Adds the bytes as 64-bit words: the cheapest way to prove that all of them have arrived.
std::uint64_t sum_words(std::span<const std::byte> bytes);

class Floor {
 public:
  /// Forks the peer: call it before any thread exists. Throws std::runtime_error.
  explicit Floor(const FloorSpec& spec);
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;
  ~Floor();

  /// What the slab and memcpy probes do from now on. Precondition: it fits FloorSpec::slab_room.
  void use(const SlabShape& slab);
  const SlabShape& slab() const { return slab_; }

  /// All probes, in turn and several times over, for about `seconds`; the middle of each.
  /// Throws std::runtime_error if the peer is gone.
  FloorFigures probe(double seconds);

 private:
  void line(double seconds, Histogram& round_trips);
  void rings(double seconds, Histogram& round_trips);
  double rings_rate(double seconds);
  void futex(double seconds, Histogram& round_trips);
  double slab_rate(double seconds);
  double memcpy_rate(double seconds);

  /// Runs a spinning probe; gives the share of their cores that the two sides got meanwhile.
  template <class Probe>
  double core_share_of(Probe probe);
  void start(FloorProbe probe);
  void finish();

  FloorSpec spec_;
  SlabShape slab_;
  shm::Segment segment_;
  FloorMemory* memory_ = nullptr;
  std::vector<std::byte> source_;  // what slab and memcpy copy
  std::vector<std::byte> target_;
  int socket_ = -1;
  pid_t peer_ = -1;
};

/// The middle of each figure; of two probes, their mean.
FloorFigures median(const std::vector<FloorFigures>& probes);

}  // namespace forge::bench
