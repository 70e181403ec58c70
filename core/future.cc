#include <forge/future.h>

#include "core/callback_thread.h"
#include "core/fork.h"
#include "core/host.h"
#include "core/router_scope.h"
#include "shm/doorbell.h"

namespace forge::detail {

void report_unheard(const Source& source, const Error& error) noexcept {
  if (core::in_forked_child()) return;
  if (const auto origin = source.origin.lock()) {
    origin->unheard(source.endpoint, error);
  } else if (const auto host = core::Host::any()) {
    host->unheard("a future", error);
  }
}

bool FutureState::wait(std::optional<std::chrono::steady_clock::time_point> until) {
  if (ready()) return true;
  if (core::in_forked_child())
    throw Stopped(
        "forge does not work in a forked child; use exec or start a new controller there");
  if (core::CallbackThread::here()) {
    throw InvalidArgument(
        "get() of a future that is not ready would deadlock the callback thread; use then() or "
        "co_await there");
  }
  core::require_no_router();
  if (driver_ != nullptr) return driver_->wait(*this, until);
  while (announce_sleep()) {
    shm::futex_wait(word_, kSleeper, until, shm::Scope::priv);
    if (until && std::chrono::steady_clock::now() >= *until) break;
  }
  return ready();
}

bool FutureState::announce_sleep() noexcept {
  // Relaxed: whoever reads the outcome asks ready() first, and complete() writes the same word.
  return (word_.fetch_or(kSleeper, std::memory_order_relaxed) & kDone) == 0;
}

void FutureState::then(std::unique_ptr<Continuation> continuation) {
  continuation_ = continuation.release();
  // Release: complete() reads continuation_ if it sees the bit. Acquire: if it is done, what runs
  // reads the outcome.
  const std::uint32_t before = word_.fetch_or(kContinuation, std::memory_order_acq_rel);
  if ((before & kDone) == 0) return;
  core::CallbackThread::post(
      [next = continuation_] { std::unique_ptr<Continuation>(next)->run(); });
}

void FutureState::abandon() noexcept {
  if (core::in_forked_child()) return;  // it is the parent's
  // Release and acquire, as in complete(): who is second disposes of what both have written.
  if ((word_.fetch_or(kAbandoned, std::memory_order_acq_rel) & kDone) != 0) dispose();
}

void FutureState::complete() noexcept {
  // Release: the outcome is visible to whoever sees kDone. Acquire: so are then() and abandon() to
  // us. From here on `this` may be gone, unless the bits say that somebody holds it.
  const std::uint32_t before = word_.fetch_or(kDone, std::memory_order_acq_rel);
  if ((before & kAbandoned) != 0) return dispose();
  if ((before & kContinuation) != 0) {  // it holds the future
    core::CallbackThread::post(
        [next = continuation_] { std::unique_ptr<Continuation>(next)->run(); });
    return;
  }
  // A woken sleeper may already have moved on and reused this address; then the wake is spurious
  // for somebody else.
  if ((before & kSleeper) != 0) shm::futex_wake(word_, 1, shm::Scope::priv);
}

}  // namespace forge::detail
