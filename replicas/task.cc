#include <forge/error.h>
#include <forge/task.h>

#include <atomic>
#include <thread>

namespace forge::detail {
namespace {
constinit thread_local Scope current;
constinit std::atomic<Loop*> common{nullptr};
}  // namespace

Scope& scope() noexcept { return current; }
Loop* common_loop() noexcept { return common.load(std::memory_order_acquire); }
void set_common_loop(Loop* loop) noexcept { common.store(loop, std::memory_order_release); }

Hop hop(Loop* loop, std::coroutine_handle<> task) {
  if (loop != nullptr) {
    loop->post(task);
  } else {
    const ScopeGuard guard;
    task.resume();
  }
  co_return;
}

bool Sleep::await_suspend(std::coroutine_handle<> task) {
  saved_ = scope();
  Loop* const loop = saved_.loop != nullptr ? saved_.loop : common_loop();
  if (loop == nullptr) {
    std::this_thread::sleep_until(until_);
    return false;
  }
  suspended_ = true;
  loop->post_at(until_, task);  // it may have gone on before this returns
  return true;
}

void throw_task_misuse() {
  throw InvalidArgument(
      "a forge::Task was awaited that is empty: it was moved from or awaited before; call the "
      "coroutine again for a new one");
}

}  // namespace forge::detail
