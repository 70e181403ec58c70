// Times as they travel between processes: nanoseconds of CLOCK_MONOTONIC.
#pragma once

#include <chrono>
#include <cstdint>

namespace forge::shm {

inline std::int64_t to_ns(std::chrono::steady_clock::time_point time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}
inline std::int64_t now_ns() { return to_ns(std::chrono::steady_clock::now()); }

}  // namespace forge::shm
