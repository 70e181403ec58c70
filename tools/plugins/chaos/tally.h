// What forge-bench chaos and its actor share besides forge: memory that forge knows nothing of, in
// which workers write down what they really executed, and where they read which fault to commit.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace chaos {

/// The numbers lie in shared memory.
enum class Fault : std::uint32_t { none, kill, segv, abort, stop, slow, corrupt, forged };
inline constexpr std::size_t kFaults = 8;

/// How often a request was executed. The client that sends the request clears it before.
struct Executions {
  std::atomic<std::uint16_t> started;
  std::atomic<std::uint16_t> finished;
};

inline constexpr std::size_t kMostReplicas = 256;
inline constexpr std::size_t kMostSessions = 4096;
/// No session: Question::session of calls that belong to none.
inline constexpr std::uint64_t kNoSession = ~std::uint64_t{0};

/// Where in an execution a fault is committed.
inline constexpr std::uint32_t kMoments = 3;

/// A fault and its moment, as Replica::armed holds them.
constexpr std::uint32_t armed(Fault fault, std::uint32_t moment) {
  return static_cast<std::uint32_t>(fault) | moment << 8;
}
constexpr Fault fault_of(std::uint32_t armed) { return static_cast<Fault>(armed & 0xFF); }
constexpr std::uint32_t moment_of(std::uint32_t armed) { return armed >> 8; }

/// Head of the tally; Executions follow. Counters only grow.
struct Tally {
  struct Replica {
    std::atomic<std::uint32_t> armed;  ///< whoever takes it commits it; 0: nothing
    std::atomic<std::int64_t> fired_ns;
  };
  Replica replicas[kMostReplicas];
  std::atomic<std::uint64_t> fired[kFaults];
  std::atomic<std::uint64_t> out_of_order;  ///< calls of a session that came after a later one
  std::atomic<std::uint64_t> first_out_of_order;
  std::atomic<std::uint64_t> garbled;  ///< requests whose payload was not theirs
  std::atomic<std::uint64_t> first_garbled;
  std::atomic<std::uint64_t> last_of_session[kMostSessions];

  Executions* executions() { return reinterpret_cast<Executions*>(this + 1); }
  static constexpr std::size_t bytes(std::size_t slots) {
    return sizeof(Tally) + slots * sizeof(Executions);
  }
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint16_t>::is_always_lock_free);
static_assert(sizeof(Executions) == 4 && sizeof(Tally) % alignof(Executions) == 0);

/// splitmix64: every number has words of its own.
constexpr std::uint64_t word_of(std::uint64_t number, std::uint64_t index) {
  std::uint64_t z = number * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

/// The words of request or answer `number`.
inline void fill(std::span<std::uint64_t> words, std::uint64_t number) {
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = word_of(number, i);
}
inline bool matches(std::span<const std::uint64_t> words, std::uint64_t number) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] != word_of(number, i)) return false;
  }
  return true;
}
/// An answer's words are not its request's.
constexpr std::uint64_t answer_to(std::uint64_t number) { return ~number; }

/// How long request and answer `number` are, in bytes. Half of the answers are inline ones.
constexpr std::size_t size_of(std::uint64_t number) {
  const std::uint64_t random = word_of(number, ~std::uint64_t{0});
  return (random & 1) == 0 ? random / 2 % 48 : random / 2 % 3000;
}

inline std::vector<std::byte> bytes_of(std::uint64_t number) {
  std::vector<std::byte> result(size_of(number));
  for (std::size_t at = 0; at < result.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = word_of(number, at / sizeof(word));
    std::memcpy(result.data() + at, &word, std::min(sizeof(word), result.size() - at));
  }
  return result;
}

}  // namespace chaos
