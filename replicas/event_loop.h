// Coroutines of an actor that wait for time or for other threads, and go on on the worker's thread.
#pragma once

#include <forge/task.h>

#include <atomic>
#include <mutex>
#include <optional>
#include <queue>
#include <vector>

#include "shm/doorbell.h"

namespace forge::replicas {

/// Anybody may post; the rest belongs to the worker's thread.
class EventLoop final : public detail::Loop {
 public:
  using Time = detail::TimePoint;

  void post(std::coroutine_handle<> coroutine) override;
  void post_at(Time at, std::coroutine_handle<> coroutine) override;

  /// Is anything due?
  bool ready() const;
  /// Resumes what was due when it was called. True if there was anything.
  bool run_due();
  /// When ready() will be true by itself; never if empty.
  std::optional<Time> next() const;

  /// Changes with every post: what the worker's thread sleeps on.
  shm::Word& bell() { return bell_; }

 private:
  struct Timer {
    Time at;
    std::uint64_t order;
    std::coroutine_handle<> coroutine;
    bool operator>(const Timer& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  mutable std::mutex mutex_;
  std::priority_queue<Timer, std::vector<Timer>, std::greater<>> timers_;  // under mutex_
  std::vector<std::coroutine_handle<>> posted_;                            // under mutex_
  std::vector<std::coroutine_handle<>> due_;
  std::uint64_t count_ = 0;  // under mutex_
  // When something is due; 0: now. Stored under mutex_, which orders what it speaks of, so relaxed
  // will do: who sleeps has read the bell before, and it rings after each store that is earlier.
  std::atomic<std::int64_t> next_ns_{INT64_MAX};
  shm::Word bell_{0};
};

}  // namespace forge::replicas
