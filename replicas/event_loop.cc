#include "replicas/event_loop.h"

#include <algorithm>

#include "shm/clock.h"
#include "shm/failpoint.h"

namespace forge::replicas {
void EventLoop::post(std::coroutine_handle<> coroutine) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(coroutine);
    next_ns_.store(0, std::memory_order_relaxed);
  }
  shm::ring(bell_, shm::Scope::priv);
}

void EventLoop::post_at(Time at, std::coroutine_handle<> coroutine) {
  {
    const std::lock_guard lock(mutex_);
    timers_.push({at, ++count_, coroutine});
    if (shm::to_ns(at) >= next_ns_.load(std::memory_order_relaxed)) return;
    next_ns_.store(shm::to_ns(at), std::memory_order_relaxed);
  }
  shm::ring(bell_, shm::Scope::priv);
}

bool EventLoop::ready() const {
  const std::int64_t at = next_ns_.load(std::memory_order_relaxed);
  return at != INT64_MAX && (at == 0 || at <= shm::now_ns());
}

std::optional<EventLoop::Time> EventLoop::next() const {
  const std::int64_t at = next_ns_.load(std::memory_order_relaxed);
  if (at == INT64_MAX) return std::nullopt;
  return Time(std::chrono::nanoseconds(at));
}

bool EventLoop::run_due() {
  if (!ready()) return false;
  due_.clear();
  {
    const std::lock_guard lock(mutex_);
    std::swap(due_, posted_);
    const auto now = std::chrono::steady_clock::now();
    for (; !timers_.empty() && timers_.top().at <= now; timers_.pop())
      due_.push_back(timers_.top().coroutine);
    next_ns_.store(timers_.empty() ? INT64_MAX : shm::to_ns(timers_.top().at),
                   std::memory_order_relaxed);
  }
  for (const auto coroutine : due_) {
    const detail::ScopeGuard guard;
    FORGE_FAILPOINT(resuming);
    coroutine.resume();
  }
  return !due_.empty();
}

}  // namespace forge::replicas
