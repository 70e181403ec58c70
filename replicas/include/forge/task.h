// Task<T>: a coroutine that gives one T. Endpoints may return it.
//
//   forge::Task<int> twice(int x) { co_return 2 * co_await slow(x); }
//
// Lazy: the body starts when the task is awaited, at most once, and continues the awaiting
// coroutine by symmetric transfer. What the body throws, the `co_await` throws.
//
// A task goes on where it was: in a worker on the worker's thread, whatever it awaits and whoever
// ends that; elsewhere on forge's callback thread if it awaited a future or time. What belongs to
// the call and not to the thread — context(), Sessions that the task has begun — goes along.
#pragma once

#include <forge/wait.h>

#include <chrono>
#include <coroutine>
#include <exception>
#include <type_traits>
#include <utility>
#include <variant>

namespace forge {

template <class T = void>
class Task;
class Context;
class Session;

namespace detail {

[[noreturn]] void throw_task_misuse();

using TimePoint = std::chrono::steady_clock::time_point;

/// Resumes coroutines on a thread of its own. Any thread may post.
class Loop {
 public:
  virtual void post(std::coroutine_handle<> coroutine) = 0;
  virtual void post_at(TimePoint at, std::coroutine_handle<> coroutine) = 0;

 protected:
  ~Loop() = default;
};

/// What goes along with a call or a task, and is the thread's while that runs.
struct Scope {
  Context* context = nullptr;        ///< null: no actor runs here
  Loop* loop = nullptr;              ///< where tasks go on; null: wherever they are resumed
  const Session* session = nullptr;  ///< the innermost
};
/// Of this thread.
Scope& scope() noexcept;
/// Where a task can sleep that has no loop of its own: the callback thread's. Null: nowhere.
Loop* common_loop() noexcept;
void set_common_loop(Loop* loop) noexcept;

/// Whoever resumes a coroutine gets the thread's scope back as it was.
class ScopeGuard {
 public:
  ScopeGuard() : before_(scope()) {}
  explicit ScopeGuard(const Scope& inside) : before_(scope()) { scope() = inside; }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;
  ~ScopeGuard() { scope() = before_; }

 private:
  Scope before_;
};

/// Inside a task that goes on: its scope is the thread's again.
inline void enter(const Scope& saved) noexcept {
  Loop* const here = scope().loop;
  scope() = saved;
  if (saved.loop == nullptr) scope().loop = here;
}

/// A coroutine nobody waits for; destroys itself at its end.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

/// Stands in for a task with whatever it awaits: resumed by anybody, it resumes the task where that
/// belongs. Destroys itself then.
struct Hop {
  struct promise_type {
    Hop get_return_object() noexcept {
      return {std::coroutine_handle<promise_type>::from_promise(*this)};
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};
Hop hop(Loop* loop, std::coroutine_handle<> task);

template <class T>
decltype(auto) awaiter_of(T&& awaitable) {
  if constexpr (requires { std::forward<T>(awaitable).operator co_await(); }) {
    return std::forward<T>(awaitable).operator co_await();
  } else if constexpr (requires { operator co_await(std::forward<T>(awaitable)); }) {
    return operator co_await(std::forward<T>(awaitable));
  } else {
    return std::forward<T>(awaitable);
  }
}

/// Awaits what is no task of ours, and keeps the scope meanwhile.
template <class Awaiter>
class Following {
 public:
  template <class T>
  Following(std::in_place_t, T&& awaitable) : awaiter_(awaiter_of(std::forward<T>(awaitable))) {}

  bool await_ready() { return awaiter_.await_ready(); }

  auto await_suspend(std::coroutine_handle<> task) {
    saved_ = scope();
    suspended_ = true;
    const auto stand_in = hop(saved_.loop, task).handle;
    using Suspended = decltype(awaiter_.await_suspend(stand_in));
    try {
      // Once it has returned, the task may have gone on elsewhere, and this be gone.
      if constexpr (std::is_same_v<Suspended, bool>) {
        const bool suspended = awaiter_.await_suspend(stand_in);
        if (!suspended) stand_in.destroy();
        return suspended;
      } else {
        return awaiter_.await_suspend(stand_in);
      }
    } catch (...) {
      stand_in.destroy();
      throw;
    }
  }

  decltype(auto) await_resume() {
    if (suspended_) enter(saved_);
    return awaiter_.await_resume();
  }

 private:
  Awaiter awaiter_;  // or a reference
  Scope saved_{};
  bool suspended_ = false;
};

/// What sleep_until() gives.
class [[nodiscard]] Sleep {
 public:
  explicit Sleep(TimePoint until) : until_(until) {}
  bool await_ready() const { return until_ <= std::chrono::steady_clock::now(); }
  bool await_suspend(std::coroutine_handle<> task);
  void await_resume() const {
    if (suspended_) enter(saved_);
  }

 private:
  TimePoint until_;
  Scope saved_{};
  bool suspended_ = false;
};

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

  // Tasks run on in the scope of those that await them; everything else keeps it for us.
  template <class U>
  auto await_transform(Task<U>&& task) const {
    return std::move(task).await_from_task();
  }
  Sleep await_transform(Sleep sleep) const { return sleep; }
  template <class T>
  auto await_transform(T&& awaitable) const {
    using Awaiter = decltype(awaiter_of(std::forward<T>(awaitable)));
    return Following<Awaiter>(std::in_place, std::forward<T>(awaitable));
  }

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
  /// awaited before. From a coroutine that is no task, it begins without Sessions.
  auto operator co_await() && {
    struct Outside : Awaiter {
      void await_suspend(std::coroutine_handle<> awaiting) noexcept {
        const auto body = this->take(awaiting);
        const detail::ScopeGuard guard({detail::scope().context, detail::scope().loop, nullptr});
        body.resume();  // when this returns, `this` may be gone
      }
    };
    return Outside{Awaiter{take_over()}};
  }

 private:
  friend promise_type;
  friend class detail::TaskPromiseBase;
  explicit Task(std::coroutine_handle<promise_type> coroutine) noexcept : coroutine_(coroutine) {}

  struct Awaiter {
    Task task;  // owns the coroutine while it runs
    bool await_ready() const noexcept { return false; }
    std::coroutine_handle<> take(std::coroutine_handle<> awaiting) noexcept {
      task.coroutine_.promise().continue_with(awaiting);
      return task.coroutine_;
    }
    T await_resume() { return task.coroutine_.promise().take(); }
  };
  auto await_from_task() && {
    struct Inside : Awaiter {
      std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
        return this->take(awaiting);
      }
    };
    return Inside{Awaiter{take_over()}};
  }
  Task take_over() {
    if (!coroutine_) detail::throw_task_misuse();
    return std::move(*this);
  }

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

}  // namespace detail

/// `co_await sleep_for(10ms)` in a task: its thread is free meanwhile. Where there is no loop to
/// wake it — no worker, and no controller in this process — the thread itself sleeps.
inline detail::Sleep sleep_until(std::chrono::steady_clock::time_point time) {
  return detail::Sleep(time);
}
template <class Rep, class Period>
detail::Sleep sleep_for(std::chrono::duration<Rep, Period> duration) {
  return detail::Sleep(detail::from_now(duration));
}

}  // namespace forge
