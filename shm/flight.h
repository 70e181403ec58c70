// What a worker did last, kept in its response file, which outlives it. Written by the worker alone and
// read after its death, so nothing here is atomic.
#pragma once

#include <time.h>

#include <cstddef>
#include <cstdint>

namespace forge::shm {

enum class FlightState : std::uint8_t { none = 0, running = 1, answered = 2, failed = 3 };

/// One execution: of a request, or of a batch of them.
struct FlightEvent {
  std::uint64_t id = 0;       ///< of the first request, packed
  std::int64_t began_ns = 0;  ///< CLOCK_MONOTONIC_COARSE: up to a clock tick early
  std::uint64_t bytes = 0;    ///< of the first request's arguments
  std::uint16_t endpoint = 0;
  std::uint16_t requests = 0;
  FlightState state = FlightState::none;
};

inline constexpr std::size_t kFlightEvents = 32;

struct FlightLog {
  std::uint64_t count;  ///< events so far; the last ones are kept, event n at [n % kFlightEvents]
  FlightEvent events[kFlightEvents];
};

/// Of a signal that the worker could still write down. Text: a line for each frame, innermost first.
struct CrashNote {
  std::int32_t signal;  ///< 0: none
  std::uint32_t size;   ///< of the text
  std::uint64_t address;
  char text[1600];
};

/// A third of the price of an exact one, which a post mortem does not need.
inline std::int64_t coarse_now_ns() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

static_assert(sizeof(FlightEvent) == 32);

}  // namespace forge::shm
