// How threads wait.
#pragma once

#include <chrono>

namespace forge {

/// How a thread waits for the other side: `spin` never sleeps (give each side a core), `adaptive`
/// spins for a bounded time while work is outstanding and then sleeps, `block` sleeps at once.
enum class Wait { spin, adaptive, block };

namespace detail {

/// The time `duration` after `start`, not before it; the end of time where the clock does not reach
/// that far.
template <class Rep, class Period>
std::chrono::steady_clock::time_point after(std::chrono::steady_clock::time_point start,
                                            std::chrono::duration<Rep, Period> duration) {
  using Time = std::chrono::steady_clock::time_point;
  using Wide = std::chrono::duration<long double>;
  if (Wide(duration) >= Wide(Time::max() - start)) return Time::max();
  if (duration <= duration.zero()) return start;
  return start + std::chrono::ceil<Time::duration>(duration);
}

/// The time `duration` from now.
template <class Rep, class Period>
std::chrono::steady_clock::time_point from_now(std::chrono::duration<Rep, Period> duration) {
  return after(std::chrono::steady_clock::now(), duration);
}

}  // namespace detail
}  // namespace forge
