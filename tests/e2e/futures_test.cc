// Futures over real workers: taken once, waited for, chained, dropped, awaited.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "payloads.h"
#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::HasSubstr;

class Futures : public PayloadTest {
 protected:
  Service service = serve({.num_replicas = 2});
  Endpoint<std::int64_t(std::int64_t)> same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  Endpoint<void()> nothing = service.endpoint<void()>("nothing");
  Endpoint<void(std::int64_t)> sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  Endpoint<void(std::string, std::string)> fail =
      service.endpoint<void(std::string, std::string)>("fail");
};

/// A call that nobody waits for, on a service that nobody has waited on, is fetched all the same.
TEST_F(Futures, TheFirstAnswerOfAServiceNeedsNoWaiter) {
  std::atomic<int> seen{0};
  auto chained = same.route(5).then([&](std::int64_t value) { seen = static_cast<int>(value); });
  EXPECT_TRUE(wait_until([&] { return seen == 5; }, 10s));
  EXPECT_TRUE(await(std::move(chained)).has_value());
}

TEST_F(Futures, AreUsedUpOnce) {
  auto future = same.route(1);
  EXPECT_TRUE(future.valid());
  EXPECT_EQ(future.get(), 1);
  EXPECT_FALSE(future.valid());
  EXPECT_THROW(future.get(), InvalidArgument);
  EXPECT_THROW((void)future.result(), InvalidArgument);
  EXPECT_THROW(future.wait_for(0s), InvalidArgument);
  EXPECT_THROW((void)future.then([](std::int64_t) {}), InvalidArgument);

  auto first = same.route(2);
  auto second = std::move(first);
  EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(second.get(), 2);
  second = same.route(3);
  EXPECT_EQ(second.get(), 3);
  auto failed = fail.route("range", "x");
  EXPECT_THROW(failed.get(), ActorError);
  EXPECT_THROW(failed.get(), InvalidArgument);
}

TEST_F(Futures, CanBeWaitedForWithALimit) {
  auto busy = sleep.route(200);
  EXPECT_FALSE(busy.wait_for(1ms));
  EXPECT_FALSE(busy.wait_for(0s));
  EXPECT_FALSE(busy.wait_for(-1s));
  EXPECT_TRUE(busy.wait_for(std::chrono::minutes(5)));
  EXPECT_TRUE(busy.wait_for(0s));
  EXPECT_TRUE(busy.wait_for(std::chrono::duration<double>(0.001)));
  busy.get();
}

TEST_F(Futures, GiveResultsWithoutThrowing) {
  const Result<std::int64_t> good = same.route(9).result();
  ASSERT_TRUE(good.has_value());
  EXPECT_EQ(*good, 9);
  const Result<void> bad = fail.route("range", "text").result();
  ASSERT_FALSE(bad.has_value());
  EXPECT_EQ(dynamic_cast<const ActorError&>(bad.error()).type(), "std::out_of_range");
  EXPECT_THROW(bad.value(), ActorError);
}

// ---- then

TEST_F(Futures, ChainValuesAndErrors) {
  EXPECT_EQ(value_of(same.route(3).then([](std::int64_t value) { return value * 2; })), 6);
  EXPECT_EQ(value_of(nothing.route().then([] { return std::string("void in"); })), "void in");
  value_of(same.route(3).then([](std::int64_t) {}));
  auto chain = same.route(1)
                   .then([](std::int64_t value) { return std::to_string(value); })
                   .then([](const std::string& text) { return text + "!"; })
                   .then([](Result<std::string> text) { return text.value() + "?"; })
                   .then([](std::string text) { return text.size(); });
  EXPECT_EQ(value_of(std::move(chain)), 3U);

  int called = 0;
  auto skipped = fail.route("range", "x").then([&] { return ++called; }).then([&](int value) {
    return called += value;
  });
  EXPECT_EQ(outcome(await(std::move(skipped))), "actor_error");
  EXPECT_EQ(called, 0);
  const auto kind = [](Result<void> result) { return outcome(result); };
  EXPECT_EQ(value_of(fail.route("own", "x").then(kind)), "actor_error");
  EXPECT_EQ(value_of(nothing.route().then(kind)), "ok");
}

TEST_F(Futures, ChainWhatAContinuationThrows) {
  auto thrown =
      same.route(1).then([](std::int64_t) -> int { throw std::runtime_error("spilt the milk"); });
  EXPECT_THAT(error_of<ActorError>(std::move(thrown)), HasSubstr("spilt the milk"));
  auto typed = same.route(1).then([](std::int64_t) { throw Backpressure("slower"); });
  EXPECT_THAT(error_of<Backpressure>(std::move(typed)), HasSubstr("slower"));
  auto odd = same.route(1).then([](std::int64_t) -> int { throw 7; });
  EXPECT_EQ(outcome(await(std::move(odd))), "actor_error");
}

TEST_F(Futures, ChainWhenReadyAlready) {
  auto ready = same.route(4);
  ASSERT_TRUE(ready.wait_for(kPatience));
  const auto caller = std::this_thread::get_id();
  auto chained = ready.then([&](std::int64_t value) {
    EXPECT_NE(std::this_thread::get_id(), caller);
    return value + 1;
  });
  EXPECT_EQ(value_of(std::move(chained)), 5);
  EXPECT_FALSE(ready.valid());
}

TEST_F(Futures, ContinuationsTakeMoveOnlyThingsAndManyOfThem) {
  auto owned = std::make_unique<int>(6);
  auto moved = same.route(1).then([owned = std::move(owned)](std::int64_t value) mutable {
    *owned += static_cast<int>(value);
    return std::move(owned);
  });
  EXPECT_EQ(*value_of(std::move(moved)), 7);
  std::atomic<std::int64_t> sum{0};
  std::vector<Future<void>> all;
  for (int i = 1; i <= 1000; ++i)
    all.push_back(same.route(i).then([&](std::int64_t value) { sum += value; }));
  for (auto& one : all) EXPECT_TRUE(await(std::move(one)).has_value());
  EXPECT_EQ(sum, 500'500);
}

TEST_F(Futures, ContinuationsRunOnOneThreadThatNoCallerIs) {
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        auto chained = same.route(i).then([&](std::int64_t) {
          const std::lock_guard lock(mutex);
          ids.insert(std::this_thread::get_id());
        });
        same.route(i).get();  // polls, and would run it if anybody but the callback thread did
        EXPECT_TRUE(await(std::move(chained)).has_value());
      }
      const std::lock_guard lock(mutex);
      EXPECT_FALSE(ids.contains(std::this_thread::get_id()));
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ids.size(), 1U);
}

TEST_F(Futures, WaitingInAContinuationThrowsInsteadOfDeadlocking) {
  auto text = same.route(1).then([&](std::int64_t) {
    auto busy = sleep.route(100);
    const std::string got = message_of<InvalidArgument>([&] { busy.get(); });
    EXPECT_TRUE(busy.valid());
    EXPECT_THROW(busy.wait_for(1ms), InvalidArgument);
    return got;
  });
  EXPECT_THAT(value_of(std::move(text)), HasSubstr("then()"));
  // One that is ready can be taken there.
  auto ready = same.route(2);
  ASSERT_TRUE(ready.wait_for(kPatience));
  auto taken = nothing.route().then([&] { return ready.get(); });
  EXPECT_EQ(value_of(std::move(taken)), 2);
}

TEST_F(Futures, ContinuationsMayCallAndShutDown) {
  std::promise<std::int64_t> last;
  auto outer = same.route(1).then([&](std::int64_t value) {
    (void)same.route(value + 1).then([&](std::int64_t next) { last.set_value(next); });
  });
  EXPECT_TRUE(await(std::move(outer)).has_value());
  EXPECT_EQ(last.get_future().get(), 2);

  auto owner = std::make_unique<Service>(serve({.name = "owned"}));
  auto& owned = *owner;
  auto ended = owned.endpoint<void()>("nothing").route().then(
      [owner = std::move(owner)]() mutable { owner.reset(); });
  EXPECT_TRUE(await(std::move(ended)).has_value());
}

// ---- dropping

TEST_F(Futures, DroppedOnesDoNotBlockAndTheirCallsStillRun) {
  TemporaryFolder folder;
  const Tally tally(folder);
  const Service faulty = controller.load(plugin_path("faulty"))
                             .actor("Faulty")
                             .options({.wait = Wait::block})
                             .as_service();
  const auto record =
      faulty.endpoint<void(std::string, std::int64_t, std::int64_t)>("record_and_sleep");
  for (int i = 0; i < 100; ++i) (void)record.route(tally.path(), i, i == 0 ? 200 : 0);
  EXPECT_TRUE(tally.wait_for(99));
  for (const auto& [value, times] : tally.counts()) EXPECT_EQ(times, 1) << value;
  EXPECT_EQ(tally.counts().size(), 100U);

  // A chained one may be dropped as well: the continuation runs all the same.
  std::atomic<int> ran{0};
  for (int i = 0; i < 50; ++i) (void)same.route(i).then([&](std::int64_t) { ++ran; });
  EXPECT_TRUE(wait_until([&] { return ran == 50; }));
}

TEST_F(Futures, MayOutliveEverything) {
  std::optional<Future<std::int64_t>> answered;
  std::optional<Future<void>> stopped;
  std::optional<Future<Tensor>> tensor;
  {
    ControllerOptions options = quiet();
    options.shutdown_grace = 0ms;
    Controller other(options);
    const Service gone = other.load(plugin_path("payloads")).actor("Payloads").as_service();
    answered = gone.endpoint<std::int64_t(std::int64_t)>("i64").route(11);
    tensor = gone.endpoint<Tensor(std::int64_t, std::uint8_t)>("make_tensor").route(10'000, 8);
    ASSERT_TRUE(answered->wait_for(kPatience));
    ASSERT_TRUE(tensor->wait_for(kPatience));
    stopped = gone.endpoint<void(std::int64_t)>("sleep_ms").route(60'000);
  }
  EXPECT_EQ(answered->get(), 11);
  EXPECT_EQ(std::ranges::count(tensor->get().span<const std::uint8_t>(), 8), 10'000);
  EXPECT_EQ(outcome(await(std::move(*stopped))), "stopped");
}

/// Continuations are posted by several threads; none may be overtaken by the end of the thread that
/// runs them.
TEST(FuturesOfController, ContinuationsRunBeforeTheirThreadEnds) {
  constexpr std::size_t kThreads = 8;
  std::atomic<std::size_t> ran{0};
  std::vector<Future<std::int64_t>> ready;
  std::vector<Future<void>> chained;
  std::promise<void> open;    // lets the callback thread go on
  std::promise<void> closed;  // lets the other threads end
  const std::shared_future<void> opened(open.get_future());
  const std::shared_future<void> end(closed.get_future());
  std::vector<std::thread> threads;
  {
    Controller controller(quiet());
    {
      const Service service =
          controller.load(plugin_path("counter")).actor("Counter").as_service(0);
      const auto value = service.endpoint<std::int64_t()>("value");
      for (std::size_t i = 0; i <= kThreads; ++i) {
        ready.push_back(value.route().then([](std::int64_t count) { return count; }));
        ASSERT_TRUE(ready.back().wait_for(kPatience));
      }
    }
    for (std::size_t i = 0; i <= kThreads; ++i) {
      std::promise<void> posted;
      threads.emplace_back([&, i] {
        chained.push_back(ready[i].then([&, i](std::int64_t) {
          if (i == 0) opened.wait();
          ++ran;
        }));
        posted.set_value();
        end.wait();  // the queue remembers who posted only while he lives
      });
      posted.get_future().wait();
    }
    threads.emplace_back([&] {
      std::this_thread::sleep_for(100ms);  // meanwhile the controller is being destroyed
      open.set_value();
    });
  }
  closed.set_value();
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(wait_until([&] { return ran == kThreads + 1; }, 5s)) << ran << " ran";
  for (auto& one : chained) ASSERT_TRUE(one.wait_for(5s));
}

// ---- coroutines

TEST_F(Futures, AreAwaitedInTasks) {
  const auto work = [&](std::int64_t start) -> Task<std::int64_t> {
    const std::int64_t one = co_await same.route(start);
    const std::int64_t two = co_await same.with({.timeout = 5s}).route(one + 1);
    co_await nothing.route();
    co_return two * 2;
  };
  EXPECT_EQ(value_of(start(work(20))), 42);
  const auto failing = [&]() -> Task<std::string> {
    try {
      co_await fail.with({.timeout = 5s}).route("own", "caught in a coroutine");
    } catch (const ActorError& error) {
      co_return error.text();
    }
    co_return "nothing was thrown";
  };
  EXPECT_EQ(value_of(start(failing())), "caught in a coroutine");
  const auto through = [&]() -> Task<void> { co_await fail.route("own", "passed on"); };
  EXPECT_THAT(error_of<ActorError>(start(through())), HasSubstr("passed on"));
  const auto nested = [&]() -> Task<std::int64_t> {
    co_return co_await work(1) + co_await work(2);
  };
  EXPECT_EQ(value_of(start(nested())), 4 + 6);
}

/// g++ 12 miscompiles braces inside co_await unless what they make is trivially copyable.
TEST_F(Futures, AreAwaitedWithOptionsInBraces) {
  const auto work = [&](std::string key) -> Task<int> {
    int late = 0;
    for (int i = 0; i < 20; ++i) {
      co_await same.with({.timeout = 10s, .key = key}).route(i);
      co_await service.endpoint<std::string(std::string)>("string")
          .with({.timeout = 10s, .key = std::string(100, 'k')})
          .route(std::string(1000, 'v'));
      try {
        co_await sleep.with({.timeout = 5ms}).route(20);
      } catch (const DeadlineExceeded&) {
        ++late;
      }
    }
    co_return late;
  };
  EXPECT_EQ(value_of(start(work("a key that is too long for the small string"))), 20);
}

TEST_F(Futures, CoroutinesGoOnOnTheCallbackThread) {
  const auto where = [&]() -> Task<std::thread::id> {
    co_await nothing.route();
    co_return std::this_thread::get_id();
  };
  const auto here = [&]() -> Task<std::thread::id> { co_return std::this_thread::get_id(); };
  EXPECT_EQ(value_of(start(here())), std::this_thread::get_id());
  // An answer that is there already does not suspend; a slow one does.
  const auto slow = [&]() -> Task<std::thread::id> {
    co_await sleep.route(20);
    auto busy = sleep.route(50);
    EXPECT_THROW(busy.get(), InvalidArgument);
    co_return std::this_thread::get_id();
  };
  const auto callback = value_of(start(slow()));
  EXPECT_NE(callback, std::this_thread::get_id());
  const auto other = value_of(start(where()));
  EXPECT_TRUE(other == callback || other == std::this_thread::get_id());
}

TEST_F(Futures, ManyCoroutinesInterleave) {
  const auto work = [&](std::int64_t id) -> Task<std::int64_t> {
    std::int64_t sum = 0;
    for (int i = 0; i < 20; ++i) sum += co_await same.route(id + i);
    co_return sum;
  };
  std::vector<Future<std::int64_t>> all;
  for (int id = 0; id < 50; ++id) all.push_back(start(work(id)));
  for (int id = 0; id < 50; ++id)
    EXPECT_EQ(value_of(std::move(all[static_cast<std::size_t>(id)])), 20 * id + 190);
}

}  // namespace
}  // namespace forge::e2e
