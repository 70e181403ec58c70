// forge::Task: lazy, movable, and faithful to values and exceptions.
#include <forge/error.h>
#include <forge/task.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/replicas/sync_run.h"

namespace forge {
namespace {

using tests::sync_run;

Task<int> value(int x) { co_return x; }
Task<int> sum(int n) {
  int total = 0;
  for (int i = 0; i < n; ++i) total += co_await value(i);
  co_return total;
}
Task<int> fails() {
  throw std::out_of_range("far away");
  co_return 0;
}

static_assert(!std::is_copy_constructible_v<Task<int>>);
static_assert(std::is_nothrow_move_constructible_v<Task<int>>);

TEST(Task, GivesItsValue) {
  EXPECT_EQ(sync_run(value(3)), 3);
  EXPECT_EQ(sync_run(sum(1000)), 499'500);
}

TEST(Task, CarriesMoveOnlyValues) {
  const auto make = []() -> Task<std::unique_ptr<int>> { co_return std::make_unique<int>(5); };
  const auto pass = [&]() -> Task<std::unique_ptr<int>> { co_return co_await make(); };
  EXPECT_EQ(*sync_run(pass()), 5);
}

TEST(Task, ConvertsWhatIsReturned) {
  const auto text = []() -> Task<std::string> { co_return "literal"; };
  EXPECT_EQ(sync_run(text()), "literal");
}

TEST(Task, ThrowsWhatItsBodyThrew) {
  EXPECT_THROW(sync_run(fails()), std::out_of_range);
  const auto catches = []() -> Task<std::string> {
    try {
      co_await fails();
    } catch (const std::out_of_range& error) {
      co_return error.what();
    }
    co_return "nothing was thrown";
  };
  EXPECT_EQ(sync_run(catches()), "far away");
  const auto nothing = []() -> Task<> {
    throw 3;
    co_return;
  };
  EXPECT_THROW(sync_run(nothing()), int);
}

TEST(Task, RunsNothingBeforeItIsAwaited) {
  bool ran = false;
  const auto body = [&]() -> Task<> {
    ran = true;
    co_return;
  };
  {
    const Task<> dropped = body();
    EXPECT_FALSE(ran);
  }
  EXPECT_FALSE(ran);
  sync_run(body());
  EXPECT_TRUE(ran);
}

TEST(Task, RunsOnce) {
  Task<int> task = value(1);
  Task<int> taken = std::move(task);
  EXPECT_EQ(sync_run(std::move(taken)), 1);
  EXPECT_THROW(sync_run(std::move(task)), InvalidArgument);  // NOLINT(bugprone-use-after-move)
}

TEST(Task, DestroysItsArgumentsWithItself) {
  auto shared = std::make_shared<int>(1);
  const auto holds = [](std::shared_ptr<int> held) -> Task<int> { co_return *held; };
  {
    const Task<int> dropped = holds(shared);
    EXPECT_EQ(shared.use_count(), 2);
  }
  EXPECT_EQ(shared.use_count(), 1);
  EXPECT_EQ(sync_run(holds(shared)), 1);
  EXPECT_EQ(shared.use_count(), 1);
}

/// Resumes on another thread, as a timer would.
struct OnAnotherThread {
  std::vector<std::thread>& threads;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) {
    threads.emplace_back([coroutine] {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      coroutine.resume();
    });
  }
  void await_resume() const noexcept {}
};

TEST(Task, IsWaitedForWhileItIsSuspendedElsewhere) {
  std::vector<std::thread> threads;
  const auto hop = [&](int x) -> Task<int> {
    co_await OnAnotherThread{threads};
    co_return x + 1;
  };
  const auto two_hops = [&]() -> Task<int> { co_return co_await hop(co_await hop(0)); };
  for (int i = 0; i < 20; ++i) EXPECT_EQ(sync_run(two_hops()), 2);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace forge
