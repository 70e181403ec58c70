// Future<T>: an answer that may not be here yet.
//
// Move-only. A thread that waits in get() fetches answers itself, for everybody; dropping a future
// detaches it and never blocks. Continuations
// (`then`, `co_await`) run on forge's callback thread, never on a thread that happens to poll.
#pragma once

#include <forge/payload.h>
#include <forge/result.h>
#include <forge/task.h>
#include <forge/wait.h>

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace forge {

template <class T>
class Future;

namespace detail {

class FutureState;

/// Something to run on the callback thread once a state is complete. Owns itself until then.
class Continuation {
 public:
  virtual ~Continuation() = default;
  virtual void run() = 0;
};

/// Fetches answers for those who wait.
class Driver {
 public:
  /// Returns when `state` is ready or `until` has passed; true if it is ready.
  virtual bool wait(FutureState& state,
                    std::optional<std::chrono::steady_clock::time_point> until) = 0;

 protected:
  ~Driver() = default;
};

/// Hears of errors that nobody receives.
class Origin {
 public:
  virtual void unheard(std::uint16_t endpoint, const Error& error) noexcept = 0;

 protected:
  ~Origin() = default;
};

/// Which call a future comes from, by however many continuations; none: it comes from no call.
struct Source {
  std::weak_ptr<Origin> origin = {};
  std::uint16_t endpoint = 0;
};

/// Counts and logs it, there or, if there is none, with a controller that lives.
void report_unheard(const Source& source, const Error& error) noexcept;

/// What a future and its producer share. One producer completes it once; one future waits for it
/// and lets go of it. Invariant: whoever is second of {complete, abandon} disposes of it; nobody
/// touches it afterwards.
class FutureState {
 public:
  bool ready() const noexcept { return (word_.load(std::memory_order_acquire) & kDone) != 0; }
  /// Throws InvalidArgument on the callback thread unless ready: nobody else could complete it.
  bool wait(std::optional<std::chrono::steady_clock::time_point> until);
  /// Runs `continuation` on the callback thread, soon if already complete. At most once.
  void then(std::unique_ptr<Continuation> continuation);
  /// The future's side is over.
  void abandon() noexcept;
  /// The producer's side is over: the outcome has been stored.
  void complete() noexcept;

  // For drivers: a thread that sleeps on word() first announces itself; false: already complete.
  bool announce_sleep() noexcept;
  const std::atomic<std::uint32_t>& word() const noexcept { return word_; }

  /// While the future or the producer holds it.
  virtual Source source() const { return {}; }

 protected:
  explicit FutureState(Driver* driver) : driver_(driver) {}
  FutureState(const FutureState&) = delete;
  FutureState& operator=(const FutureState&) = delete;
  virtual ~FutureState() = default;
  virtual void dispose() noexcept = 0;
  /// For states that are used again.
  void rearm(Driver* driver) noexcept {
    driver_ = driver;
    word_.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint32_t kDone = 1;
  static constexpr std::uint32_t kSleeper = 2;
  static constexpr std::uint32_t kContinuation = 4;
  static constexpr std::uint32_t kAbandoned = 8;

  std::atomic<std::uint32_t> word_{0};  // futex word
  Driver* driver_;                      // null: only complete() helps
  Continuation* continuation_ = nullptr;
};

/// The state of a call: encoded answers of one or more shares, each of one or more ranks.
class AnswerState : public FutureState {
 public:
  using FutureState::FutureState;
  virtual std::size_t shares() const = 0;
  virtual std::size_t ranks() const = 0;
  /// The value of one rank of one share; throws its error. Its reader is valid while the state is.
  virtual Reader value(std::size_t share, std::size_t rank) = 0;
  /// The error of a share, lowest rank first; null if all its ranks have values.
  virtual std::shared_ptr<const Error> error(std::size_t share) const = 0;
  /// Why there are no shares at all; null if there are.
  virtual std::shared_ptr<const Error> failure() const = 0;
};

/// The state of everything else: a typed value made in this process.
template <class T>
class ValueState final : public FutureState {
 public:
  explicit ValueState(Source source = {}) : FutureState(nullptr), source_(std::move(source)) {}
  void set(Result<T> outcome) {
    outcome_.emplace(std::move(outcome));
    complete();
  }
  Result<T> take() {
    taken_ = true;
    return std::move(*outcome_);
  }
  Source source() const override { return source_; }

 private:
  void dispose() noexcept override {
    if (!taken_ && outcome_ && !outcome_->has_value()) report_unheard(source_, outcome_->error());
    delete this;
  }
  std::optional<Result<T>> outcome_;
  bool taken_ = false;
  const Source source_;
};

/// Runs f and puts what it returns or throws into a Result.
template <class F, class... A>
auto capture(F&& f, A&&... args) -> Result<std::invoke_result_t<F, A...>> {
  using R = std::invoke_result_t<F, A...>;
  try {
    if constexpr (std::is_void_v<R>) {
      std::invoke(std::forward<F>(f), std::forward<A>(args)...);
      return {};
    } else {
      return Result<R>(std::invoke(std::forward<F>(f), std::forward<A>(args)...));
    }
  } catch (const Error& error) {
    return error.clone();
  } catch (const std::exception& error) {
    return make_error(
        {ErrorCode::actor_error, std::string("a continuation threw: ") + error.what()});
  } catch (...) {
    return make_error(
        {ErrorCode::actor_error, "a continuation threw something that is no exception"});
  }
}

template <class T, class F>
struct ThenResult {
  using type = std::invoke_result_t<F, T>;
};
template <class F>
struct ThenResult<void, F> {
  using type = std::invoke_result_t<F>;
};

template <class T>
inline constexpr bool kIsResult = false;
template <class T>
inline constexpr bool kIsResult<Result<T>> = true;

}  // namespace detail

/// Safe to hand between threads; one thread at a time uses it.
template <class T>
class [[nodiscard]] Future {
 public:
  using value_type = T;
  /// How the outcome is taken out of a state of some kind.
  using Take = Result<T> (*)(detail::FutureState&);

  Future(detail::FutureState* state, Take how) : state_(state), take_(how) {}
  Future(Future&& other) noexcept
      : state_(std::exchange(other.state_, nullptr)), take_(other.take_) {}
  Future& operator=(Future&& other) noexcept {
    std::swap(state_, other.state_);
    std::swap(take_, other.take_);
    return *this;
  }
  ~Future() {
    if (state_ != nullptr) state_->abandon();
  }

  /// False once get(), result(), then() or co_await has used it up.
  bool valid() const noexcept { return state_ != nullptr; }

  /// Waits and gives the value, or throws the error. Once. On the callback thread it throws
  /// InvalidArgument unless ready.
  T get() { return std::move(result()).value(); }

  /// Waits and gives value or error without throwing the latter.
  Result<T> result() {
    require_valid();
    state_->wait(std::nullopt);
    return take();
  }

  /// True if the outcome is here within `duration`.
  template <class Rep, class Period>
  bool wait_for(std::chrono::duration<Rep, Period> duration) {
    require_valid();
    return state_->wait(detail::from_now(duration));
  }

  /// Calls f with the value, or with the whole Result<T> if f takes that, on the callback thread.
  /// Uses this future up. An error goes past an f that takes T. What f throws is the error of the
  /// future returned.
  template <class F>
  auto then(F f) {
    if constexpr (std::is_invocable_v<F, Result<T>> &&
                  !(std::is_same_v<T, void> && std::is_invocable_v<F>)) {
      using U = std::invoke_result_t<F, Result<T>>;
      return chain<U>([f = std::move(f)](Result<T> outcome) mutable -> Result<U> {
        return detail::capture(f, std::move(outcome));
      });
    } else {
      using U = typename detail::ThenResult<T, F>::type;
      return chain<U>([f = std::move(f)](Result<T> outcome) mutable -> Result<U> {
        if (!outcome) return outcome.error_ptr();
        if constexpr (std::is_void_v<T>) {
          return detail::capture(f);
        } else {
          return detail::capture(f, std::move(*outcome));
        }
      });
    }
  }

  /// `co_await future` gives the value or throws; the coroutine goes on on the callback thread.
  auto operator co_await() && {
    class Awaiter {
     public:
      explicit Awaiter(Future future) : future_(std::move(future)) { future_.require_valid(); }
      bool await_ready() const noexcept { return future_.state_->ready(); }
      void await_suspend(std::coroutine_handle<> awaiting) {
        struct Resume final : detail::Continuation {
          explicit Resume(std::coroutine_handle<> handle) : coroutine(handle) {}
          void run() override { coroutine.resume(); }
          std::coroutine_handle<> coroutine;
        };
        future_.state_->then(std::make_unique<Resume>(awaiting));
      }
      T await_resume() { return std::move(future_.take()).value(); }

     private:
      Future future_;  // alive while the coroutine is suspended
    };
    return Awaiter(std::move(*this));
  }

 private:
  template <class U>
  friend class Future;

  void require_valid() const {
    if (state_ == nullptr) {
      throw InvalidArgument(
          "this future has been used up; get(), result(), then() and co_await work once");
    }
  }

  Result<T> take() {
    detail::FutureState* state = std::exchange(state_, nullptr);
    struct Release {
      detail::FutureState* state;
      ~Release() { state->abandon(); }
    } release{state};
    return take_(*state);
  }

  template <class U, class F>
  Future<U> chain(F convert) {
    require_valid();
    struct Link final : detail::Continuation {
      Link(Future source, F f, detail::ValueState<U>* target)
          : source_(std::move(source)), f_(std::move(f)), target_(target) {}
      void run() override {
        // f_ throws nothing; taking and handing over may, if the value's own code does.
        auto outcome = detail::capture([&] { return f_(source_.take()); });
        target_->set(outcome ? std::move(*outcome) : Result<U>(outcome.error_ptr()));
      }
      Future source_;
      F f_;
      detail::ValueState<U>* target_;
    };
    auto* target = new detail::ValueState<U>(state_->source());
    Future<U> result(target, &take_value<U>);
    detail::FutureState* state = state_;
    state->then(std::make_unique<Link>(std::move(*this), std::move(convert), target));
    return result;
  }

  template <class U>
  static Result<U> take_value(detail::FutureState& state) {
    return static_cast<detail::ValueState<U>&>(state).take();
  }

  detail::FutureState* state_;
  Take take_;
};

namespace detail {

/// A future and the state that completes it.
template <class T>
std::pair<Future<T>, ValueState<T>*> make_promise() {
  auto* state = new ValueState<T>();
  return {Future<T>(state, [](FutureState& s) { return static_cast<ValueState<T>&>(s).take(); }),
          state};
}

template <class T>
Future<T> failed_future(std::shared_ptr<const Error> error) {
  auto [future, state] = make_promise<T>();
  state->set(Result<T>(std::move(error)));
  return std::move(future);
}

template <class T>
Detached run_into(Task<T> task, ValueState<T>* state) {
  std::optional<Result<T>> outcome;
  try {
    if constexpr (std::is_void_v<T>) {
      co_await std::move(task);
      outcome.emplace();
    } else {
      outcome.emplace(co_await std::move(task));
    }
  } catch (...) {
    outcome.emplace(
        capture([error = std::current_exception()]() -> T { std::rethrow_exception(error); }));
  }
  state->set(std::move(*outcome));
}

}  // namespace detail

/// Starts a task on the calling thread, up to its first suspension, and gives a future of its
/// value.
template <class T>
Future<T> start(Task<T> task) {
  auto [future, state] = detail::make_promise<T>();
  detail::run_into(std::move(task), state);
  return std::move(future);
}

}  // namespace forge
