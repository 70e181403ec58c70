// When a replica that died is started again, and when it is given up: a pure function of its history.
//
// No clock, no lock, no I/O: the caller says what time it is and how the dice fell, and acts on the
// decision. A *barren* death brought no progress: in setup, before the first answer, or while idle.
//
//   - The first death of a streak is followed by a restart at once, later barren ones by a delay that
//     doubles. A death with progress ends the streak and clears the count.
//   - More than `max_deaths` barren deaths within `window` (inclusive): quarantined.
//   - A worker that was up and lived longer than `window` since its restart begins a new streak.
//   - A death by a poison request is neither: the worker starts again at once, and nothing is counted.
//     Nor is the loss of its device after it had answered: what is known of the device is in the book
//     of devices. In setup, or before the first answer, it is a death like others.
//   - A kill from outside (an operator, the kernel out of memory) counts against nobody: it never
//     leads to quarantine and restarts at once. Only if the worker had not come to its first answer is it
//     delayed, by at most `max_delay_outside`: a machine without memory must not be asked in a hot loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace forge::replicas {

struct RestartPolicy {
  std::chrono::nanoseconds first_delay = std::chrono::milliseconds(50);
  std::chrono::nanoseconds max_delay = std::chrono::seconds(30);
  std::chrono::nanoseconds max_delay_outside = std::chrono::seconds(1);
  std::chrono::nanoseconds window = std::chrono::seconds(60);
  std::uint32_t max_deaths = 5;  ///< barren ones within `window` that are still put up with
};

/// What the replica was doing when its first rank died.
enum class DeathKind : std::uint8_t {
  in_setup,
  before_first_answer,   ///< executing, and this incarnation had not answered yet
  idle,                  ///< up, nothing to execute
  serving_after_answer,  ///< executing, and this incarnation had answered: progress
  by_poison,             ///< killed by a request that is not run again: says nothing of the replica
  device_lost,           ///< it had answered, and its device failed under it, working or idle
};

struct Death {
  DeathKind kind = DeathKind::in_setup;
  bool from_outside = false;  ///< a SIGKILL that forge did not send
};

/// One replica's past, as far as it matters. Owned by the caller, changed by on_exit() alone.
struct RestartHistory {
  std::vector<std::chrono::steady_clock::time_point>
      barren_deaths;         ///< of the last window, oldest first
  std::uint32_t streak = 0;  ///< deaths since the last progress that asked for a delay
  std::chrono::steady_clock::time_point last_restart{};  ///< when the present incarnation was due
};

struct Decision {
  enum class Action : std::uint8_t { restart, quarantine };
  Action action = Action::restart;
  std::chrono::steady_clock::time_point at{};  ///< restart: not before
};

/// Decides about one death. `jitter` in [0, 1) shortens a delay by up to a quarter, so that replicas
/// that died together do not come back together.
Decision on_exit(RestartHistory& history, const RestartPolicy& policy, Death death,
                 std::chrono::steady_clock::time_point now, double jitter);

}  // namespace forge::replicas
