// A lock that threads which serve several services may take: they never wait long for one of them.
#pragma once

#include <sched.h>

#include <chrono>
#include <mutex>

namespace forge::core {

/// Takes the lock if it comes free within `patience`, which is many times as long as calls hold it.
/// False: somebody runs a router, say.
inline bool lock_soon(std::unique_lock<std::mutex>& lock, std::chrono::microseconds patience) {
  if (lock.try_lock()) return true;
  const auto end = std::chrono::steady_clock::now() + patience;
  while (std::chrono::steady_clock::now() < end) {
    ::sched_yield();
    if (lock.try_lock()) return true;
  }
  return false;
}

}  // namespace forge::core
