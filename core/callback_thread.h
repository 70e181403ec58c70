// The thread that runs continuations: `then`, `co_await`, on_actor_failure. One per process, as
// long as any controller lives.
#pragma once

#include <forge/task.h>

#include <functional>
#include <memory>

namespace forge::core {

class CallbackThread {
 public:
  /// The running one, or a new one. The last owner stops it, after it has run what was posted.
  static std::shared_ptr<CallbackThread> acquire();
  /// Runs `work` on the callback thread; here and now if no controller is left.
  static void post(std::function<void()> work);
  /// Not before `at`, or when the last controller goes.
  static void post_at(detail::TimePoint at, std::function<void()> work);
  /// Is this the callback thread?
  static bool here();

  CallbackThread();
  ~CallbackThread();

 private:
  struct Item;
  struct Queue;
  static void post(Item item);
  std::shared_ptr<Queue> queue_;  // with the thread
};

}  // namespace forge::core
