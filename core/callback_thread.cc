#include "core/callback_thread.h"

#include <concurrentqueue/blockingconcurrentqueue.h>

#include <forge/future.h>
#include <chrono>
#include <mutex>
#include <optional>
#include <queue>
#include <vector>

#include "core/fork.h"
#include "shm/threads.h"

namespace forge::core {
namespace {
std::mutex current_mutex;
std::weak_ptr<CallbackThread> current;
thread_local bool is_callback_thread = false;

/// Where tasks of the embedding program go on that sleep.
class CallbackLoop final : public detail::Loop {
 public:
  void post(std::coroutine_handle<> coroutine) override {
    CallbackThread::post([coroutine] { coroutine.resume(); });
  }
  void post_at(detail::TimePoint at, std::coroutine_handle<> coroutine) override {
    CallbackThread::post_at(at, [coroutine] { coroutine.resume(); });
  }
};
CallbackLoop callback_loop;

struct Timer {
  detail::TimePoint at;
  std::uint64_t order;
  std::function<void()> work;
  bool operator>(const Timer& other) const {
    return at != other.at ? at > other.at : order > other.order;
  }
};
using Timers = std::priority_queue<Timer, std::vector<Timer>, std::greater<>>;

void run(std::function<void()>& work) {
  const detail::ScopeGuard guard({nullptr, &callback_loop, nullptr});
  // What f of then(f) throws is in a future; a coroutine of the program's own may throw out of resume().
  if (const auto outcome = detail::capture(work); !outcome)
    detail::report_unheard({}, outcome.error());
  work = nullptr;
}
}  // namespace

struct CallbackThread::Item {
  std::function<void()> work;           // an empty function ends the thread
  std::optional<detail::TimePoint> at;  // when; at once without
};

struct CallbackThread::Queue {
  moodycamel::BlockingConcurrentQueue<Item> items;
  std::thread thread;

  /// Until the last word.
  void serve();
};

void CallbackThread::Queue::serve() {
  Timers timers;
  std::uint64_t order = 0;
  Item item;
  const auto take = [&] {
    if (item.at) {
      timers.push({*item.at, ++order, std::move(item.work)});
    } else if (item.work) {
      run(item.work);
    } else {
      return false;
    }
    return true;
  };
  bool open = true;
  while (open) {
    if (timers.empty()) {
      items.wait_dequeue(item);
      open = take();
      continue;
    }
    const auto left = timers.top().at - std::chrono::steady_clock::now();
    if (left > std::chrono::nanoseconds::zero()) {
      // Rounded up: one look too many is nothing, one too early would spin.
      const auto us = std::chrono::ceil<std::chrono::microseconds>(left);
      if (items.wait_dequeue_timed(item, us)) open = take();
      continue;
    }
    auto work = std::move(const_cast<Timer&>(timers.top()).work);
    timers.pop();
    run(work);
  }
  // The queue keeps order per producer only: others' work may come after the last word. Nobody
  // sleeps longer than the last controller lives.
  while (items.try_dequeue(item)) {
    if (item.work) run(item.work);
  }
  for (; !timers.empty(); timers.pop()) {
    auto work = std::move(const_cast<Timer&>(timers.top()).work);
    run(work);
  }
}

CallbackThread::CallbackThread() : queue_(std::make_shared<Queue>()) {
  // The thread shares nothing but the queue.
  queue_->thread = shm::start_thread("forge-callback", {}, [queue = queue_] {
    is_callback_thread = true;
    queue->serve();
  });
  detail::set_common_loop(&callback_loop);
}

CallbackThread::~CallbackThread() {
  if (in_forked_child()) {
    (void)new std::shared_ptr<Queue>(queue_);  // the thread does not exist here
    return;
  }
  queue_->items.enqueue({});
  // The last owner may be a continuation itself.
  if (here()) {
    queue_->thread.detach();
  } else {
    queue_->thread.join();
  }
}

std::shared_ptr<CallbackThread> CallbackThread::acquire() {
  const std::lock_guard lock(current_mutex);
  auto thread = current.lock();
  if (!thread) {
    thread = std::make_shared<CallbackThread>();
    current = thread;
  }
  return thread;
}

void CallbackThread::post(std::function<void()> work) { post(Item{std::move(work), {}}); }

void CallbackThread::post_at(detail::TimePoint at, std::function<void()> work) {
  post(Item{std::move(work), at});
}

void CallbackThread::post(Item item) {
  std::shared_ptr<CallbackThread> thread;
  {
    const std::lock_guard lock(current_mutex);
    thread = current.lock();
  }
  if (thread) {
    thread->queue_->items.enqueue(std::move(item));
    return;
  }
  if (item.at) std::this_thread::sleep_until(*item.at);
  run(item.work);
}

bool CallbackThread::here() { return is_callback_thread; }

}  // namespace forge::core
