#include "core/callback_thread.h"

#include <concurrentqueue/blockingconcurrentqueue.h>

#include <mutex>

#include "core/fork.h"
#include "shm/threads.h"

namespace forge::core {
namespace {
std::mutex current_mutex;
std::weak_ptr<CallbackThread> current;
thread_local bool is_callback_thread = false;
}  // namespace

struct CallbackThread::Queue {
  moodycamel::BlockingConcurrentQueue<std::function<void()>>
      work;  // an empty function ends the thread
  std::thread thread;
};

CallbackThread::CallbackThread() : queue_(std::make_shared<Queue>()) {
  // The thread shares nothing but the queue.
  queue_->thread = shm::start_thread("forge-callback", {}, [queue = queue_] {
    is_callback_thread = true;
    std::function<void()> work;
    for (;;) {
      queue->work.wait_dequeue(work);
      if (!work) break;
      work();
      work = nullptr;
    }
    // The queue keeps order per producer only: others' work may come after the last word.
    while (queue->work.try_dequeue(work)) {
      if (work) work();
    }
  });
}

CallbackThread::~CallbackThread() {
  if (in_forked_child()) {
    (void)new std::shared_ptr<Queue>(queue_);  // the thread does not exist here
    return;
  }
  queue_->work.enqueue(nullptr);
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

void CallbackThread::post(std::function<void()> work) {
  std::shared_ptr<CallbackThread> thread;
  {
    const std::lock_guard lock(current_mutex);
    thread = current.lock();
  }
  if (thread) {
    thread->queue_->work.enqueue(std::move(work));
  } else {
    work();
  }
}

bool CallbackThread::here() { return is_callback_thread; }

}  // namespace forge::core
