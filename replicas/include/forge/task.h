// Task<T>: a coroutine that gives one T. Endpoints may return it.
//
//   forge::Task<int> twice(int x) { co_return 2 * co_await slow(x); }
//
// Lazy: the body starts when the task is awaited, at most once, and continues the awaiting
// coroutine by symmetric transfer. What the body throws, the `co_await` throws. sleep_for() and
// other ways to wait will stand beside it: they need the worker's event loop.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <exception>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

namespace forge {

template <class T = void>
class Task;

namespace detail {

[[noreturn]] void throw_task_misuse();

/// What does not depend on the result's type. `continuation_` is the coroutine that awaits us.
class TaskPromiseBase {
 public:
  std::suspend_always initial_suspend() const noexcept { return {}; }

  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> done) const noexcept {
      return done.promise().continuation_;
    }
    void await_resume() const noexcept {}
  };
  FinalAwaiter final_suspend() const noexcept { return {}; }

  void continue_with(std::coroutine_handle<> continuation) noexcept {
    continuation_ = continuation;
  }

 private:
  std::coroutine_handle<> continuation_ = std::noop_coroutine();
};

template <class T>
class TaskPromise : public TaskPromiseBase {
  static_assert(std::is_object_v<T> && std::is_move_constructible_v<T>,
                "forge::Task<T> gives a movable value or void; return a pointer for a reference");

 public:
  Task<T> get_return_object() noexcept;
  template <class U = T>
  requires std::is_constructible_v<T, U>
  void return_value(U&& value) { outcome_.template emplace<1>(std::forward<U>(value)); }
  void unhandled_exception() noexcept { outcome_.template emplace<2>(std::current_exception()); }

  T take() {
    if (outcome_.index() == 2) std::rethrow_exception(std::get<2>(outcome_));
    return std::move(std::get<1>(outcome_));
  }

 private:
  std::variant<std::monostate, T, std::exception_ptr> outcome_;
};

template <>
class TaskPromise<void> : public TaskPromiseBase {
 public:
  Task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void unhandled_exception() noexcept { error_ = std::current_exception(); }

  void take() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

}  // namespace detail

/// Owns the coroutine; move-only. Destroying a task that is suspended destroys what it holds.
template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::TaskPromise<T>;
  using value_type = T;

  Task(Task&& other) noexcept : coroutine_(std::exchange(other.coroutine_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (coroutine_) coroutine_.destroy();
      coroutine_ = std::exchange(other.coroutine_, nullptr);
    }
    return *this;
  }
  ~Task() {
    if (coroutine_) coroutine_.destroy();
  }

  /// Starts the body and gives its value. Throws InvalidArgument if the task was moved from or
  /// awaited before.
  auto operator co_await() && {
    struct Awaiter {
      Task task;  // owns the coroutine while it runs
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
        task.coroutine_.promise().continue_with(awaiting);
        return task.coroutine_;
      }
      T await_resume() { return task.coroutine_.promise().take(); }
    };
    if (!coroutine_) detail::throw_task_misuse();
    return Awaiter{std::move(*this)};
  }

 private:
  friend promise_type;
  explicit Task(std::coroutine_handle<promise_type> coroutine) noexcept : coroutine_(coroutine) {}

  std::coroutine_handle<promise_type> coroutine_;
};

namespace detail {

template <class T>
Task<T> TaskPromise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<TaskPromise>::from_promise(*this));
}
inline Task<void> TaskPromise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<TaskPromise>::from_promise(*this));
}

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

}  // namespace detail
}  // namespace forge
