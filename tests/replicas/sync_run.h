// Runs a task on the thread of a test.
#pragma once

#include <forge/task.h>

#include <condition_variable>
#include <mutex>
#include <optional>

namespace forge::tests {

/// The outermost coroutine of sync_run: tells the thread that waits when all is done.
class SyncDriver {
 public:
  class promise_type {
   public:
    SyncDriver get_return_object() noexcept {
      return SyncDriver(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    auto final_suspend() const noexcept {
      struct Signal {
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<promise_type> driver) const noexcept {
          driver.promise().finish();
        }
        void await_resume() const noexcept {}
      };
      return Signal{};
    }
    void return_void() const noexcept {}
    void unhandled_exception() noexcept { error_ = std::current_exception(); }

    void wait() {
      std::unique_lock lock(mutex_);
      done_changed_.wait(lock, [this] { return done_; });
      if (error_) std::rethrow_exception(error_);
    }

   private:
    void finish() noexcept {
      // Notified under the lock: the waiting thread destroys this promise as soon as it has it.
      const std::lock_guard lock(mutex_);
      done_ = true;
      done_changed_.notify_one();
    }

    std::mutex mutex_;
    std::condition_variable done_changed_;
    bool done_ = false;  // guarded by mutex_, as is error_ by the coroutine's end
    std::exception_ptr error_;
  };

  SyncDriver(SyncDriver&& other) noexcept : coroutine_(std::exchange(other.coroutine_, nullptr)) {}
  SyncDriver& operator=(SyncDriver&&) = delete;
  ~SyncDriver() {
    if (coroutine_) coroutine_.destroy();
  }

  void run() {
    coroutine_.resume();
    coroutine_.promise().wait();
  }

 private:
  explicit SyncDriver(std::coroutine_handle<promise_type> coroutine) : coroutine_(coroutine) {}
  std::coroutine_handle<promise_type> coroutine_;
};

template <class T>
SyncDriver drive(Task<T>& task, std::optional<T>& result) {
  result.emplace(co_await std::move(task));
}
inline SyncDriver drive(Task<void>& task) { co_await std::move(task); }

/// Runs the task to its end on this thread, sleeping while it is suspended elsewhere.
template <class T>
T sync_run(Task<T> task) {
  if constexpr (std::is_void_v<T>) {
    drive(task).run();
  } else {
    std::optional<T> result;
    drive(task, result).run();
    return std::move(*result);
  }
}

}  // namespace forge::tests
