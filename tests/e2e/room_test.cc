// A full arena: calls with a deadline wait for room, in order; others are refused at once.
#include <atomic>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::HasSubstr;

class Room : public PayloadTest {
 protected:
  static constexpr std::size_t kArena = std::size_t{4} << 20;
  static constexpr std::int64_t kPiece = 100'000;

  /// Holds all of the arena, in pieces.
  void fill() {
    try {
      for (;;) held.push_back(service.allocate(DType::u8, {kPiece}));
    } catch (const Backpressure&) {
    }
  }
  void drop(std::size_t pieces) { held.resize(held.size() - pieces); }

  /// Returns when somebody waits for room: what is free then is not for others.
  [[nodiscard]] bool wait_for_waiter() {
    return wait_until([&] {
      try {
        (void)service.allocate(DType::u8, {100});
        return false;
      } catch (const Backpressure&) {
        return true;
      }
    });
  }

  Service service = serve({.num_replicas = 2, .arena_bytes = kArena});
  Endpoint<Bytes(Bytes)> bytes =
      service.endpoint<Bytes(Bytes)>("bytes").with({.timeout = kPatience});
  std::vector<Tensor> held;
};

TEST_F(Room, IsWaitedForByEveryKindOfCall) {
  const auto tensor = service.endpoint<Tensor(Tensor)>("tensor").with({.timeout = kPatience});
  const std::vector<std::function<std::size_t()>> calls{
      [&] { return bytes.route(Bytes(kPiece)).get().size(); },
      [&] { return bytes.fanout(Bytes(kPiece)).get().size(); },
      [&] {
        return bytes.with({.sess_id = "s", .timeout = kPatience}).route(Bytes(kPiece)).get().size();
      },
      [&] { return tensor.route(Tensor(DType::u8, {kPiece})).get().byte_count(); },
      [&] { return service.allocate(DType::u8, {kPiece}, kPatience).byte_count(); },
      [&] { return bytes.allocate(DType::u8, {kPiece}, kPatience).byte_count(); },
  };
  for (std::size_t i = 0; i < calls.size(); ++i) {
    fill();
    std::atomic<bool> done{false};
    auto call = std::async(std::launch::async, [&] {
      const std::size_t size = calls[i]();
      done = true;
      return size;
    });
    std::this_thread::sleep_for(10ms);
    EXPECT_FALSE(done) << "call " << i;
    held.clear();
    ASSERT_EQ(call.wait_for(kPatience), std::future_status::ready) << "call " << i;
    EXPECT_GT(call.get(), 0U) << "call " << i;
  }
}

/// Nobody else fetches the answers that make room.
TEST_F(Room, IsMadeByTheAnswersOfTheOneWhoWaits) {
  std::vector<Future<Bytes>> answers;
  for (int i = 0; i < 60; ++i) {
    answers.push_back(bytes.route(Bytes(500'000)));
    if (answers.size() < 4) continue;
    EXPECT_EQ(value_of(std::move(answers.front())).size(), 500'000U);
    answers.erase(answers.begin());
  }
  answers.clear();
  // Those whose answers are small may all be open.
  const auto sum = service.endpoint<double(Tensor)>("sum").with({.timeout = kPatience});
  std::vector<Future<double>> sums;
  std::vector<Future<std::vector<Result<double>>>> shares;
  for (int i = 0; i < 150; ++i) {
    if (i % 10 == 9) {
      shares.push_back(sum.fanout(Tensor(DType::f32, {100'000})));
    } else {
      sums.push_back(sum.route(Tensor(DType::f32, {100'000})));
    }
  }
  for (auto& one : sums) EXPECT_EQ(outcome(await(std::move(one))), "ok");
  for (auto& one : shares) EXPECT_EQ(outcome(await(std::move(one))), "ok");
}

TEST_F(Room, OfABatchIsWaitedForToo) {
  const Service batches = controller.load(plugin_path("batches"))
                              .actor("Batches")
                              .options({.arena_bytes = kArena})
                              .as_service();
  const auto endpoint = batches.endpoint<double(Tensor)>("sums_soon").with({.timeout = kPatience});
  std::vector<Future<double>> sums;
  for (int i = 0; i < 60; ++i) sums.push_back(endpoint.route(Tensor(DType::f32, {100'000})));
  for (auto& one : sums) EXPECT_EQ(outcome(await(std::move(one))), "ok");
}

TEST_F(Room, GoesToWhoHasWaitedLongest) {
  fill();
  drop(1);
  std::atomic<bool> large_done{false};
  std::atomic<bool> small_done{false};
  std::thread large([&] {
    (void)service.allocate(DType::u8, {20 * kPiece}, kPatience);
    large_done = true;
  });
  ASSERT_TRUE(wait_for_waiter());
  std::thread small([&] {
    (void)service.allocate(DType::u8, {1000}, kPatience);
    small_done = true;
  });
  drop(10);
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(large_done);
  EXPECT_FALSE(small_done) << "it came later";
  held.clear();
  large.join();
  small.join();
}

TEST_F(Room, ThatDoesNotComeInTimeIsADeadline) {
  fill();
  drop(1);
  const auto text = error_of<DeadlineExceeded>(
      bytes.with({.timeout = 20ms}).route(Bytes(20 * static_cast<std::size_t>(kPiece))));
  EXPECT_THAT(text, HasSubstr("arena"));
  EXPECT_THAT(
      message_of<DeadlineExceeded>([&] { (void)service.allocate(DType::u8, {20 * kPiece}, 1ms); }),
      HasSubstr("arena"));
  EXPECT_THROW((void)service.allocate(DType::u8, {20 * kPiece}, 0ms), DeadlineExceeded);
  EXPECT_EQ(service.allocate(DType::u8, {1000}).byte_count(), 1000U) << "nobody waits any more";
}

/// The one in front gives up: what he kept others from is theirs.
TEST_F(Room, IsFreeForTheNextWhenTheFirstGivesUp) {
  fill();
  drop(1);
  std::thread large([&] {
    EXPECT_THROW((void)service.allocate(DType::u8, {20 * kPiece}, 1s), DeadlineExceeded);
  });
  ASSERT_TRUE(wait_for_waiter());
  EXPECT_EQ(service.allocate(DType::u8, {1000}, kPatience).byte_count(), 1000U);
  large.join();
}

TEST_F(Room, ThatThereCanNeverBeIsNotWaitedFor) {
  error_of<PayloadTooLarge>(bytes.route(Bytes(kArena + 1)));
  EXPECT_THROW(
      (void)service.allocate(DType::u8, {static_cast<std::int64_t>(kArena) + 1}, kPatience),
      PayloadTooLarge);
  fill();
  error_of<Backpressure>(service.endpoint<Bytes(Bytes)>("bytes").route(Bytes(kPiece)));
}

TEST_F(Room, IsNotWaitedForByAServiceThatEnds) {
  fill();
  drop(1);
  std::thread waiter(
      [&] { EXPECT_THROW((void)service.allocate(DType::u8, {20 * kPiece}, kPatience), Stopped); });
  std::thread caller(
      [&] { error_of<Stopped>(bytes.route(Bytes(20 * static_cast<std::size_t>(kPiece)))); });
  ASSERT_TRUE(wait_for_waiter());
  service.shutdown();
  waiter.join();
  caller.join();
}

/// It would keep all other continuations waiting.
TEST_F(Room, IsNotWaitedForOnTheCallbackThread) {
  fill();
  drop(1);
  auto chained = service.endpoint<void()>("nothing").route().then(
      [&] { return outcome(bytes.route(Bytes(3 * static_cast<std::size_t>(kPiece))).result()); });
  EXPECT_EQ(value_of(std::move(chained)), "backpressure");
}

/// Many at once, small and large, some of whom give up: all end.
TEST_F(Room, IsSharedByManyWhoWait) {
  std::vector<std::thread> threads;
  std::atomic<int> answered{0};
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 60; ++i) {
        const auto size = static_cast<std::size_t>(t % 3 == 0 ? 2'000'000 : 300'000);
        const auto timeout = (i + t) % 7 == 0 ? 500us : std::chrono::microseconds(kPatience);
        const auto result = await(service.endpoint<double(Tensor)>("sum")
                                      .with({.timeout = timeout})
                                      .route(Tensor(DType::u8, {static_cast<std::int64_t>(size)})));
        answered += result.has_value() ||
                    result.error().error_code() == ErrorCode::deadline_exceeded ||
                    result.error().error_code() == ErrorCode::actor_error;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, 6 * 60);
}

}  // namespace
}  // namespace forge::e2e
