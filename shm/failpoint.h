// Failpoints: the steps of a worker's life, at each of which a test can let it die, stop or throw.
//
// Only in builds with FORGE_FAILPOINTS (all presets but the release ones); others have nothing of it.
// A test makes a FailTrigger in memory that its workers map by the path in $FORGE_FAILPOINTS, and
// arms it with one shot at a time: whichever worker comes by takes it, and no other.
#pragma once

#ifdef FORGE_FAILPOINTS

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace forge::shm {

/// X(name, when it is reached, whether an exception may be thrown there)
#define FORGE_EACH_FAILPOINT(X)    \
  X(born, setup, false)            \
  X(attached, setup, false)        \
  X(setup_begun, setup, false)     \
  X(setup_started, setup, false)   \
  X(plugin_opened, setup, true)    \
  X(constructed, setup, true)      \
  X(set_up, setup, true)           \
  X(setup_answered, setup, false)  \
  X(seen, serving, false)          \
  X(accepted, serving, false)      \
  X(started, serving, false)       \
  X(entered, serving, false)       \
  X(decoding, serving, true)       \
  X(answering, serving, true)      \
  X(ended, serving, false)         \
  X(finished, serving, false)      \
  X(published, serving, false)     \
  X(popped, serving, false)        \
  X(rung, serving, false)          \
  X(parked, serving, false)        \
  X(woken, serving, false)         \
  X(suspended, coroutine, false)   \
  X(resuming, coroutine, false)    \
  X(resumed, coroutine, false)     \
  X(group_entered, group, false)   \
  X(group_published, group, false) \
  X(group_arrived, group, false)   \
  X(stopping, shutdown, false)

enum class Failpoint : std::uint8_t {
  none,
#define FORGE_FAILPOINT_NAME(name, when, throws) name,
  FORGE_EACH_FAILPOINT(FORGE_FAILPOINT_NAME)
#undef FORGE_FAILPOINT_NAME
};

enum class FailAction : std::uint8_t { kill, segfault, abort, stop, raise };

struct FailTrigger {
  static constexpr const char* kVariable = "FORGE_FAILPOINTS";

  std::atomic<std::uint64_t> shot{0};  ///< what is armed; 0: nothing, or it has been fired

  /// At the `hit`th time from now that a worker comes there. Replaces what was armed.
  void arm(Failpoint point, FailAction action, std::uint32_t hit = 1) {
    shot.store(std::uint64_t{hit} << 16 | static_cast<std::uint64_t>(action) << 8 |
                   static_cast<std::uint64_t>(point),
               std::memory_order_relaxed);
  }
  bool fired() const { return shot.load(std::memory_order_relaxed) == 0; }
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// What FORGE_FAILPOINT() does.
void reach(Failpoint point);

}  // namespace forge::shm

#define FORGE_FAILPOINT(point) ::forge::shm::reach(::forge::shm::Failpoint::point)
#else
#define FORGE_FAILPOINT(point) static_cast<void>(0)
#endif
