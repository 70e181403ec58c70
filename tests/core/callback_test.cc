// The callback thread: everything that was posted runs, on one thread, even while the last
// controller goes away. And futures whose continuations run there.
#include "core/callback_thread.h"

#include <forge/future.h>
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace forge::core {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

/// Keeps the callback thread busy until it is opened.
class Gate {
 public:
  Gate() {
    CallbackThread::post([reached = &reached_, opened = opened_.get_future().share()] {
      reached->set_value();
      opened.wait();
    });
    reached_.get_future().wait();
  }
  void open() { opened_.set_value(); }

 private:
  std::promise<void> reached_;
  std::promise<void> opened_;
};

/// Runs `work` on a thread of its own.
void elsewhere(std::function<void()> work) { std::thread(std::move(work)).join(); }

/// Waits until everything posted so far by this thread has run.
void flush() {
  std::promise<void> done;
  CallbackThread::post([&] { done.set_value(); });
  done.get_future().wait();
}

// ---- the thread

TEST(CallbackThread, IsOnePerProcess) {
  auto first = CallbackThread::acquire();
  const auto second = CallbackThread::acquire();
  EXPECT_EQ(first, second);
  std::thread::id ids[2];
  CallbackThread::post([&] { ids[0] = std::this_thread::get_id(); });
  first.reset();
  CallbackThread::post([&] { ids[1] = std::this_thread::get_id(); });
  flush();
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_NE(ids[0], std::this_thread::get_id());
}

TEST(CallbackThread, KnowsItself) {
  const auto thread = CallbackThread::acquire();
  EXPECT_FALSE(CallbackThread::here());
  bool there = false;
  CallbackThread::post([&] { there = CallbackThread::here(); });
  flush();
  EXPECT_TRUE(there);
}

TEST(CallbackThread, RunsInOrderWhatOneThreadPosts) {
  const auto thread = CallbackThread::acquire();
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) {
    CallbackThread::post([&order, i] { order.push_back(i); });
  }
  flush();
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(CallbackThread, RunsWorkThatWorkPosts) {
  const auto thread = CallbackThread::acquire();
  std::promise<int> done;
  CallbackThread::post(
      [&] { CallbackThread::post([&] { CallbackThread::post([&] { done.set_value(3); }); }); });
  EXPECT_EQ(done.get_future().get(), 3);
}

TEST(CallbackThread, DestroysWorkThereAndAtOnce) {
  const auto thread = CallbackThread::acquire();
  auto destroyed = std::make_shared<std::promise<bool>>();
  auto told = destroyed->get_future();
  struct Tells {
    std::shared_ptr<std::promise<bool>> promise;
    ~Tells() { promise->set_value(CallbackThread::here()); }
  };
  CallbackThread::post([tells = std::make_shared<Tells>(std::move(destroyed))] {});
  ASSERT_EQ(told.wait_for(60s), std::future_status::ready) << "kept until the next work comes";
  EXPECT_TRUE(told.get());
}

TEST(CallbackThread, RunsHereWhenThereIsNoController) {
  bool ran = false;
  CallbackThread::post([&] { ran = true; });
  EXPECT_TRUE(ran);
}

// ---- its end

TEST(CallbackThread, RunsWhatOthersPostedBeforeItsLastOwnerLetGo) {
  for (int round = 0; round < 50; ++round) {
    auto thread = CallbackThread::acquire();
    std::atomic<int> ran{0};
    std::unique_ptr<Gate> gate;
    // From other threads than the one that ends it, and while it is busy with something.
    elsewhere([&] { gate = std::make_unique<Gate>(); });
    for (int i = 0; i < 3; ++i) {
      elsewhere([&] { CallbackThread::post([&] { ran.fetch_add(1); }); });
    }
    std::thread opener([&] {
      std::this_thread::sleep_for(1ms);
      gate->open();
    });
    thread.reset();
    opener.join();
    ASSERT_EQ(ran.load(), 3) << "round " << round;
  }
}

TEST(CallbackThread, MayLoseItsLastOwnerInAContinuation) {
  for (int round = 0; round < 20; ++round) {
    auto thread = CallbackThread::acquire();
    std::promise<void> done;
    Gate gate;
    CallbackThread::post([&done, owner = std::move(thread)]() mutable {
      owner.reset();
      done.set_value();
    });
    gate.open();
    done.get_future().wait();
  }
}

TEST(CallbackThread, StartsAnewAfterItsEnd) {
  for (int round = 0; round < 20; ++round) {
    const auto thread = CallbackThread::acquire();
    bool ran = false;
    CallbackThread::post([&] { ran = true; });
    flush();
    EXPECT_TRUE(ran);
  }
}

TEST(CallbackThread, RunsEverythingOnceWhileControllersComeAndGo) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 500;
  std::atomic<int> ran{0};
  std::vector<std::thread> controllers;
  for (int i = 0; i < kThreads; ++i) {
    controllers.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        const auto thread = CallbackThread::acquire();
        CallbackThread::post([&] { ran.fetch_add(1); });
      }
    });
  }
  for (auto& controller : controllers) controller.join();
  EXPECT_EQ(ran.load(), kThreads * kRounds);
}

// ---- futures

class Futures : public ::testing::Test {
 protected:
  std::shared_ptr<CallbackThread> thread_ = CallbackThread::acquire();
};

TEST_F(Futures, GiveTheirValueOnce) {
  auto [future, state] = detail::make_promise<int>();
  EXPECT_TRUE(future.valid());
  EXPECT_FALSE(future.wait_for(1ms));
  state->set(5);
  EXPECT_TRUE(future.wait_for(0ms));
  EXPECT_EQ(future.get(), 5);
  EXPECT_FALSE(future.valid());
  EXPECT_THROW(future.get(), InvalidArgument);
}

TEST_F(Futures, WakeWhoWaits) {
  for (int i = 0; i < 200; ++i) {
    auto [future, state] = detail::make_promise<int>();
    std::thread producer([state = state, i] { state->set(i); });
    EXPECT_EQ(future.get(), i);
    producer.join();
  }
}

TEST_F(Futures, GiveErrorsWithTheirClass) {
  EXPECT_THROW(detail::failed_future<int>(std::make_shared<Backpressure>("full")).get(),
               Backpressure);
  const auto result = detail::failed_future<void>(std::make_shared<Stopped>("gone")).result();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), "stopped");
}

TEST_F(Futures, MayBeDroppedBeforeAndAfterTheyAreReady) {
  {
    auto [future, state] = detail::make_promise<std::string>();
    state->set(std::string(100, 'x'));
  }
  detail::ValueState<std::string>* left;
  {
    auto [future, state] = detail::make_promise<std::string>();
    left = state;
  }
  left->set(std::string(100, 'x'));
}

/// Completes states on a thread of its own, at the time at which the test does something else to
/// them. Nothing but the states orders what the two do.
class Producer {
 public:
  Producer() {
    thread_ = std::thread([this] {
      for (int round = 0; round < kRounds; ++round) {
        while (next_.load(std::memory_order_acquire) == nullptr) std::this_thread::yield();
        next_.exchange(nullptr, std::memory_order_relaxed)->set(std::string(100, 'x'));
      }
    });
  }
  Producer(const Producer&) = delete;
  Producer& operator=(const Producer&) = delete;
  ~Producer() { thread_.join(); }

  /// Completes it a little before or after the return. To be called kRounds times.
  void complete(detail::ValueState<std::string>* state) {
    while (next_.load(std::memory_order_relaxed) != nullptr) std::this_thread::yield();
    next_.store(state, std::memory_order_release);
    if (++round_ % 2 == 0) return;  // most often we are first then
    while (next_.load(std::memory_order_relaxed) != nullptr) std::this_thread::yield();
    for (volatile int i = round_ % 50 * 40; i != 0;) i = i - 1;
  }

  static constexpr int kRounds = 5000;

 private:
  std::atomic<detail::ValueState<std::string>*> next_{nullptr};
  int round_ = 0;
  std::thread thread_;
};

TEST_F(Futures, MayBeDroppedWhileTheyBecomeReady) {
  Producer producer;
  for (int i = 0; i < Producer::kRounds; ++i) {
    auto [future, state] = detail::make_promise<std::string>();
    producer.complete(state);
  }
}

TEST_F(Futures, MayBeContinuedWhileTheyBecomeReady) {
  Producer producer;
  for (int i = 0; i < Producer::kRounds; ++i) {
    auto [future, state] = detail::make_promise<std::string>();
    producer.complete(state);
    auto length =
        std::move(future).then([](const Result<std::string>& text) { return text->size(); });
    ASSERT_EQ(length.get(), 100u);
  }
}

TEST_F(Futures, RunContinuationsOnTheCallbackThreadInAChain) {
  auto [future, state] = detail::make_promise<int>();
  auto chained = std::move(future)
                     .then([](int value) {
                       EXPECT_TRUE(CallbackThread::here());
                       return std::to_string(value);
                     })
                     .then([](Result<std::string> text) { return *text + "!"; });
  state->set(7);
  EXPECT_EQ(chained.get(), "7!");
}

TEST_F(Futures, CarryErrorsPastContinuationsThatTakeValues) {
  bool ran = false;
  auto chained =
      detail::failed_future<int>(std::make_shared<Cancelled>("no"))
          .then([&](int) { ran = true; })
          .then([](const Result<void>& result) { return std::string(result.error().code()); });
  EXPECT_EQ(chained.get(), "cancelled");
  EXPECT_FALSE(ran);
}

TEST_F(Futures, TurnWhatAContinuationThrowsIntoTheNextError) {
  auto [future, state] = detail::make_promise<int>();
  auto chained = std::move(future).then([](int) -> int { throw std::runtime_error("oh"); });
  state->set(1);
  const auto result = chained.result();
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().what(), HasSubstr("oh"));
}

TEST_F(Futures, RefuseToWaitOnTheCallbackThread) {
  auto [outer, outer_state] = detail::make_promise<int>();
  auto [inner, inner_state] = detail::make_promise<int>();
  auto chained =
      std::move(outer).then([&inner = inner](int) { return inner.get(); });  // would wait for ever
  outer_state->set(1);
  EXPECT_THROW(chained.get(), InvalidArgument);
  inner_state->set(2);
  EXPECT_EQ(inner.get(), 2) << "the refusal has not used it up";
}

Task<int> sum(Future<int> a, Future<int> b) {
  const int first = co_await std::move(a);
  co_return first + co_await std::move(b);
}

TEST_F(Futures, ResumeCoroutines) {
  auto [a, a_state] = detail::make_promise<int>();
  auto [b, b_state] = detail::make_promise<int>();
  auto total = start(sum(std::move(a), std::move(b)));
  b_state->set(2);
  a_state->set(40);
  EXPECT_EQ(total.get(), 42);
  auto failed = start(sum(detail::failed_future<int>(std::make_shared<Backpressure>("full")),
                          detail::failed_future<int>(std::make_shared<Stopped>("gone"))));
  EXPECT_THROW(failed.get(), Backpressure);
}

}  // namespace
}  // namespace forge::core
