// When a replica that died is started again, and when it is given up: a pure function of its history.
//
// No clock, no lock, no I/O: the caller says what time it is and how the dice fell, and acts on the
// decision.
//
//   - The first death of a streak is followed by a restart at once, later ones by a delay that doubles.
//     A death with progress ends the streak and clears the count; so does one that was requested.
//   - Deaths in setup and while idle say that the program is broken: more than `max_deaths` of them
//     within `window` (inclusive), and it is quarantined: not tried again for long. If it fails once more
//     then, it is quarantined again, for twice as long, up to an hour. Nothing is ever given up.
//   - A death that a call caused says nothing of the replica and never leads to quarantine: if the call
//     is known, the worker starts again at once; if it died in a call before its first answer, after a
//     delay of at most `max_delay_call`.
//   - Nor does the loss of its device after it had answered: what is known of the device is in the book
//     of devices. In setup, or before the first answer, it is a death like others.
//   - A worker that was up and lived longer than `window` since its restart begins a new streak.
//   - A kill from outside (an operator, the kernel out of memory) or a shortage (no process, memory or
//     descriptor) never leads to quarantine. If the worker had not come to its first answer, the restart
//     is delayed, by at most `max_delay_outside`: a machine without memory must not be asked in a hot
//     loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace forge::replicas {

struct RestartPolicy {
  std::chrono::nanoseconds first_delay = std::chrono::milliseconds(50);
  std::chrono::nanoseconds max_delay = std::chrono::seconds(30);
  std::chrono::nanoseconds max_delay_outside = std::chrono::seconds(1);
  std::chrono::nanoseconds max_delay_call = std::chrono::seconds(1);
  std::chrono::nanoseconds window = std::chrono::seconds(60);
  std::uint32_t max_deaths = 5;  ///< counted ones within `window` that do not quarantine it yet
  std::chrono::nanoseconds quarantine = std::chrono::minutes(5);  ///< the first one
  std::chrono::nanoseconds max_quarantine = std::chrono::hours(1);
};

/// What the replica was doing when its first rank died.
enum class DeathKind : std::uint8_t {
  in_setup,
  before_first_answer,   ///< executing, and this incarnation had not answered yet
  idle,                  ///< up, nothing to execute
  serving_after_answer,  ///< executing, and this incarnation had answered: progress
  requested,             ///< it was to end: replaced, called off, restart_on_error
  by_call,               ///< a call is known to be the reason: poison, exec_timeout
  device_lost,           ///< it had answered, and its device failed under it, working or idle
};

struct Death {
  DeathKind kind = DeathKind::in_setup;
  bool from_outside = false;  ///< a SIGKILL that forge did not send, or a shortage
};

/// One replica's past, as far as it matters. Owned by the caller, changed by on_exit() alone.
struct RestartHistory {
  std::vector<std::chrono::steady_clock::time_point>
      counted_deaths;             ///< of the last window, oldest first
  std::uint32_t streak = 0;       ///< deaths since the last progress that asked for a delay
  std::uint32_t quarantines = 0;  ///< since the last progress
  std::chrono::steady_clock::time_point last_restart{};  ///< when the present incarnation was due
};

struct Decision {
  enum class Action : std::uint8_t { restart, quarantine };
  Action action = Action::restart;
  std::chrono::steady_clock::time_point at{};  ///< when it starts again, at the earliest
};

/// Decides about one death. `jitter` in [0, 1) shortens a delay by up to a quarter, so that replicas
/// that died together do not come back together.
Decision on_exit(RestartHistory& history, const RestartPolicy& policy, Death death,
                 std::chrono::steady_clock::time_point now, double jitter);

}  // namespace forge::replicas
