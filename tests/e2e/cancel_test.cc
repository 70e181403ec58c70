// Cancelling while calls are being made. The calls would never end by themselves, so that one whose
// cancel got lost shows: it is not over.
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support.h"
#include "tests/random.h"

namespace forge::e2e {
namespace {

using Hold = std::int64_t(std::int64_t, Bytes);

/// How the calls are made.
struct Way {
  const char* name;
  const char* endpoint;
  std::size_t bytes;  // large arguments are placed without the service's lock
  const char* session;
};
std::ostream& operator<<(std::ostream& out, const Way& way) { return out << way.name; }

class CancelDuringRoute : public ::testing::TestWithParam<Way> {
 protected:
  /// Waits a random moment, shorter or longer than a call takes to be made.
  static void linger(std::mt19937_64& random) {
    const std::uint64_t turns = tests::below(random, 3000);
    for (std::uint64_t i = 0; i < turns; ++i) std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  /// Workers have let go of all calls, and nobody queues.
  bool is_idle() const {
    for (const auto& [idx, replica] : service.get_metrics_summary().replicas) {
      if (replica.active_requests + replica.queue_depth != 0) return false;
    }
    return true;
  }

  Controller controller{quiet()};
  Service service = controller.load(plugin_path("tasks"))
                        .actor("Tasks")
                        .options({.num_replicas = 2, .replica_max_concurrent_requests = 4})
                        .as_service();
};

TEST_P(CancelDuringRoute, LeavesNoCallBehind) {
  auto random = tests::seeded();
  const Way way = GetParam();
  const auto hold = service.endpoint<Hold>(way.endpoint);
  const Bytes padding(way.bytes);
  constexpr int kRounds = 120;
  constexpr int kThreads = 2;
  std::size_t sent = 0;
  std::size_t refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    const CancelSource source;
    const auto call = hold.with({.sess_id = way.session, .cancel = source.token()});
    std::atomic<bool> go{false};
    std::vector<std::vector<Future<std::int64_t>>> futures(kThreads);
    std::vector<std::thread> threads;
    for (auto& mine : futures) {
      threads.emplace_back([&] {
        while (!go) std::this_thread::yield();
        for (int i = 0; i < 40; ++i) {
          mine.push_back(call.route(i, padding));
          if (mine.back().wait_for(0s)) break;  // the cancel has been here
        }
      });
    }
    threads.emplace_back([&] {
      while (!go) std::this_thread::yield();
      linger(random);
      source.cancel();
    });
    go = true;
    for (auto& thread : threads) thread.join();
    for (auto& mine : futures) {
      for (auto& future : mine) {
        // Neither route() nor cancel() is at it any more: nothing is left to happen.
        ASSERT_TRUE(future.wait_for(0s)) << "round " << round << ": a call was not cancelled";
        const auto result = future.result();
        ASSERT_EQ(outcome(result), "cancelled");
        const std::string text = result.error().what();
        ++(text.find("before it was sent") != std::string::npos ? refused : sent);
      }
    }
    // Each round by itself: with hundreds open, an endpoint that runs may not be shown its cancel.
    ASSERT_TRUE(wait_until([&] { return is_idle(); })) << "round " << round;
  }
  EXPECT_GT(sent, 0U);
  std::printf("%s: %zu cancelled after they were sent, %zu before\n", way.name, sent, refused);
  const auto plain = service.endpoint<std::int64_t(std::int64_t)>("plain");
  for (const auto& share : value_of(plain.fanout(7))) EXPECT_EQ(share.value(), 7);
}

INSTANTIATE_TEST_SUITE_P(Ways, CancelDuringRoute,
                         ::testing::Values(Way{"single", "hold", 0, ""},
                                           Way{"large", "hold", 64 * 1024, ""},
                                           Way{"in_a_session", "hold", 0, "one"},
                                           Way{"batched", "hold_batch", 0, ""},
                                           Way{"batched_large", "hold_batch", 64 * 1024, ""}),
                         [](const auto& way) { return std::string(way.param.name); });

class Cancels : public ::testing::Test {
 protected:
  Controller controller{quiet()};
  Plugin tasks = controller.load(plugin_path("tasks"));
};

TEST_F(Cancels, ReachEveryShareOfAFanout) {
  const Service service = tasks.actor("Tasks").options({.num_replicas = 3}).as_service();
  const auto hold = service.endpoint<Hold>("hold");
  for (int round = 0; round < 50; ++round) {
    const CancelSource source;
    std::optional<Future<std::vector<Result<std::int64_t>>>> shares;
    std::thread caller(
        [&] { shares.emplace(hold.with({.cancel = source.token()}).fanout(1, Bytes(32 * 1024))); });
    source.cancel();
    caller.join();
    ASSERT_TRUE(shares->wait_for(0s)) << "round " << round;
    const auto result = shares->result();
    if (!result) {
      EXPECT_EQ(outcome(result), "cancelled") << "before it was sent";
      continue;
    }
    EXPECT_EQ(result->size(), 3U);
    for (const auto& share : *result) EXPECT_EQ(outcome(share), "cancelled");
  }
}

TEST_F(Cancels, OfOneSourceReachServicesOfSeveralControllers) {
  Controller other(quiet());
  const Service one = tasks.actor("Tasks").as_service();
  const Service two = tasks.actor("Tasks").as_service();
  const Service three = other.load(plugin_path("tasks")).actor("Tasks").as_service();
  const CancelSource source;
  std::vector<Future<std::int64_t>> calls;
  for (const Service* service : {&one, &two, &three}) {
    for (int i = 0; i < 20; ++i)
      calls.push_back(
          service->endpoint<Hold>("hold").with({.cancel = source.token()}).route(i, Bytes()));
  }
  const CancelSource copy = source;
  copy.cancel();
  for (auto& call : calls) {
    EXPECT_TRUE(call.wait_for(0s));
    EXPECT_EQ(outcome(await(std::move(call))), "cancelled");
  }
}

TEST_F(Cancels, OfAServiceThatIsGoneDoNothing) {
  const CancelSource source;
  std::optional<Future<std::int64_t>> call;
  {
    auto options = quiet();
    options.shutdown_grace = 0ms;
    Controller brief(options);
    const Service service = brief.load(plugin_path("tasks")).actor("Tasks").as_service();
    call.emplace(service.endpoint<Hold>("hold").with({.cancel = source.token()}).route(1, Bytes()));
  }
  source.cancel();
  EXPECT_EQ(outcome(await(std::move(*call))), "stopped");
}

}  // namespace
}  // namespace forge::e2e
