// How long a poller keeps looking before it sleeps. Policy only: the loop, and what sleeping means,
// belong to the caller.
#pragma once

#include <sched.h>

#include <forge/wait.h>
#include <chrono>
#include <cstdint>

namespace forge::shm {

/// Tells the processor that this is a spin loop.
inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

/// One wait. Call keep_spinning() after each look that found nothing; false means: park now.
///   spin      never parks
///   adaptive  pauses for a few µs, then yields the core between looks, and parks after kBudget
///   block     parks at once
class Spinner {
 public:
  /// About what waking a sleeper costs: the classic bound, at most twice the best choice in
  /// hindsight.
  static constexpr std::chrono::microseconds kBudget{50};
  static constexpr std::chrono::microseconds kPauseOnly{4};

  explicit Spinner(Wait wait) : wait_(wait) {}

  bool keep_spinning() {
    if (wait_ == Wait::block) return false;
    cpu_pause();
    if (wait_ == Wait::spin) return true;
    if (++looks_ % kLooksPerClock != 0 && !yielding_) return true;
    const auto now = std::chrono::steady_clock::now();
    if (looks_ == kLooksPerClock) start_ = now;
    if (now - start_ >= kBudget) return false;
    yielding_ = now - start_ >= kPauseOnly;
    // Others may need this core to make what we wait for happen.
    if (yielding_) ::sched_yield();
    return true;
  }

  /// Something was found: the budget starts anew.
  void reset() {
    looks_ = 0;
    yielding_ = false;
  }

 private:
  static constexpr std::uint32_t kLooksPerClock = 16;
  Wait wait_;
  bool yielding_ = false;
  std::uint32_t looks_ = 0;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace forge::shm
