// The event loop of a worker, and where tasks go on: on their loop's thread, in their own scope.
#include "replicas/event_loop.h"

#include <forge/task.h>
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

namespace forge::replicas {
namespace {

using namespace std::chrono_literals;
using detail::Detached;
using detail::Scope;
using detail::scope;
using detail::ScopeGuard;
using ::testing::ElementsAre;

/// Runs a loop until `done`.
template <class Done>
void run(EventLoop& loop, Done done) {
  const ScopeGuard guard({nullptr, &loop, nullptr});
  while (!done()) {
    if (!loop.run_due()) std::this_thread::yield();
  }
}

Detached into(Task<> task, int& ended) {
  co_await std::move(task);
  ++ended;
}

void start(EventLoop& loop, Task<> task, int& ended) {
  const ScopeGuard guard({nullptr, &loop, nullptr});
  into(std::move(task), ended);
}

TEST(EventLoop, IsQuietWhenNothingWaits) {
  EventLoop loop;
  EXPECT_FALSE(loop.ready());
  EXPECT_FALSE(loop.run_due());
  EXPECT_FALSE(loop.next().has_value());
}

TEST(EventLoop, WakesSleepersInTheOrderOfTheirTimes) {
  EventLoop loop;
  std::vector<int> order;
  int ended = 0;
  const auto now = std::chrono::steady_clock::now();
  const auto sleeper = [&](int name, std::chrono::milliseconds after) -> Task<> {
    co_await sleep_until(now + after);
    order.push_back(name);
  };
  start(loop, sleeper(3, 30ms), ended);
  start(loop, sleeper(1, 10ms), ended);
  start(loop, sleeper(2, 10ms), ended);  // equal times: who came first
  start(loop, sleeper(0, 0ms), ended);   // has passed: does not wait
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(loop.next(), now + 10ms);
  run(loop, [&] { return ended == 4; });
  EXPECT_THAT(order, ElementsAre(0, 1, 2, 3));
  EXPECT_FALSE(loop.next().has_value());
}

TEST(EventLoop, RingsWhenSomethingBecomesDueEarlier) {
  EventLoop loop;
  const auto now = std::chrono::steady_clock::now();
  const auto before = loop.bell().load();
  loop.post_at(now + 2h, std::noop_coroutine());
  const auto first = loop.bell().load();
  EXPECT_NE(before, first);
  loop.post_at(now + 3h, std::noop_coroutine());
  EXPECT_EQ(loop.bell().load(), first) << "nobody need wake for that";
  loop.post_at(now + 1h, std::noop_coroutine());
  EXPECT_NE(loop.bell().load(), first);
  EXPECT_FALSE(loop.run_due());
  loop.post(std::noop_coroutine());
  EXPECT_TRUE(loop.run_due());
  EXPECT_EQ(loop.next(), now + 1h);
}

struct OtherThread {
  std::vector<std::thread>& threads;
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> task) const {
    threads.emplace_back([task] { task.resume(); });
  }
  std::thread::id await_resume() const { return std::this_thread::get_id(); }
};

TEST(EventLoop, BringsTasksHomeFromOtherThreads) {
  EventLoop loop;
  std::vector<std::thread> threads;
  int ended = 0;
  const auto task = [&]() -> Task<> {
    for (int i = 0; i < 5; ++i)
      EXPECT_EQ(co_await OtherThread{threads}, std::this_thread::get_id());
    EXPECT_EQ(scope().loop, &loop);
  };
  const auto home = std::this_thread::get_id();
  const auto checked = [&]() -> Task<> {
    co_await task();
    EXPECT_EQ(std::this_thread::get_id(), home);
  };
  for (int i = 0; i < 20; ++i) start(loop, checked(), ended);
  run(loop, [&] { return ended == 20; });
  for (auto& thread : threads) thread.join();
}

/// Not a real session or context: only addresses that tell scopes apart.
Scope scope_named(EventLoop& loop, int& context) {
  return {reinterpret_cast<Context*>(&context), &loop, nullptr};
}

TEST(Scopes, GoAlongWithTheirTask) {
  EventLoop loop;
  int ended = 0;
  int a = 0;
  int b = 0;
  const auto task = [&](int& mine) -> Task<> {
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(scope().context, reinterpret_cast<Context*>(&mine));
      co_await sleep_for(1ms);
    }
    EXPECT_EQ(scope().context, reinterpret_cast<Context*>(&mine));
  };
  for (int* mine : {&a, &b}) {
    const ScopeGuard guard(scope_named(loop, *mine));
    into(task(*mine), ended);
    EXPECT_EQ(scope().context, reinterpret_cast<Context*>(mine));
  }
  run(loop, [&] {
    EXPECT_EQ(scope().context, nullptr) << "whoever resumes a task gets its own scope back";
    return ended == 2;
  });
}

TEST(Scopes, OfTheStarterComeBackWhenTheTaskWaits) {
  EventLoop loop;
  int ended = 0;
  int mine = 0;
  const auto task = [&]() -> Task<> {
    scope().context = reinterpret_cast<Context*>(&mine);
    co_await sleep_for(1ms);
    EXPECT_EQ(scope().context, reinterpret_cast<Context*>(&mine));
  };
  start(loop, task(), ended);
  EXPECT_EQ(scope().context, nullptr);
  run(loop, [&] { return ended == 1; });
  EXPECT_EQ(scope().context, nullptr);
}

TEST(Scopes, AreKeptByAnAwaitableThatDoesNotSuspendAfterAll) {
  struct Undecided {
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<>) const { return false; }
    int await_resume() const { return 4; }
  };
  int ended = 0;
  EventLoop loop;
  const auto task = []() -> Task<> { EXPECT_EQ(co_await Undecided{}, 4); };
  start(loop, task(), ended);
  EXPECT_EQ(ended, 1);
}

/// The loop of threads without one may have been made on any thread.
TEST(CommonLoop, IsSeenAsItWasMade) {
  struct Counts final : detail::Loop {
    void post(std::coroutine_handle<>) override {}
    void post_at(std::chrono::steady_clock::time_point, std::coroutine_handle<>) override {
      ++posted;
    }
    int posted = 0;
  };
  std::unique_ptr<Counts> made;
  std::thread maker([&] {
    made = std::make_unique<Counts>();
    detail::set_common_loop(made.get());
  });
  while (detail::common_loop() == nullptr) std::this_thread::yield();
  detail::common_loop()->post_at({}, std::noop_coroutine());
  maker.join();
  detail::set_common_loop(nullptr);
  EXPECT_EQ(made->posted, 1);
}

TEST(Sleep, SleepsOnTheThreadWhereThereIsNoLoop) {
  int ended = 0;
  const auto task = []() -> Task<> { co_await sleep_for(5ms); };
  const auto begin = std::chrono::steady_clock::now();
  into(task(), ended);
  EXPECT_EQ(ended, 1);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 5ms);
}

}  // namespace
}  // namespace forge::replicas
