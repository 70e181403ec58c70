// Verbs of a service against each other and against everything that can go wrong meanwhile: each ends,
// says what it could not do, and leaves a service that answers.
#include <atomic>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "tests/e2e/fixture.h"

namespace forge::e2e {
namespace {

using Echo = std::int64_t(std::int64_t);

/// What the verb threw: the code of the error, or "".
std::string code_of(const std::function<void()>& verb) {
  try {
    verb();
    return "";
  } catch (const Error& error) {
    return std::string(error.code());
  }
}

/// Whether the verb returned at all. One that did not would block the end of the test: it ends here.
void expect_returns(const std::function<void()>& verb, const char* what) {
  std::packaged_task<std::string()> task([&] { return code_of(verb); });
  auto done = task.get_future();
  std::thread thread(std::move(task));
  if (done.wait_for(kPatience) != std::future_status::ready) {
    std::fprintf(stderr, "%s never returned\n", what);
    std::_Exit(1);
  }
  thread.join();
}

class Verbs : public ::testing::Test {
 protected:
  static ControllerOptions hasty() {
    ControllerOptions options = quiet();
    options.shutdown_grace = 300ms;
    return options;
  }
  Service start(Options options) {
    return stubborn_.actor("Stubborn").options(options).as_service(orders_);
  }
  void order(const std::string& what) const { std::ofstream(orders_) << what << "\n"; }
  static void expect_serves(const Service& service) {
    const auto answer = await(service.endpoint<Echo>("echo").with({.timeout = 30s}).route(7));
    EXPECT_EQ(outcome(answer), "ok");
  }
  static ReplicaState state(const Service& service, std::size_t idx) {
    return service.replicas().at(idx).state;
  }

  TemporaryFolder folder_;
  std::string orders_ = folder_.file("orders");
  Controller controller_{hasty()};
  Plugin stubborn_ = controller_.load(plugin_path("stubborn"));
};

TEST_F(Verbs, ScalingToZeroWhileARequestWakesAReplica) {
  const Service service = start({.min_replicas = 0, .max_replicas = 2});
  const auto echo = service.endpoint<Echo>("echo");
  for (int round = 0; round < 12; ++round) {
    expect_returns([&] { service.scale(0); }, "scale(0)");
    auto woken = echo.with({.timeout = 30s}).route(round);
    std::this_thread::sleep_for(round * 300us);
    expect_returns([&] { service.scale(0); }, "scale(0) while a replica wakes");
    EXPECT_EQ(outcome(await(std::move(woken))), "ok") << round;
  }
  expect_serves(service);
}

TEST_F(Verbs, ScalingDownSendsAQuarantinedReplicaAway) {
  const Service service =
      start({.num_replicas = 2,
             .restart = {.backoff_initial = 1ms, .backoff_max = 1ms, .max_deaths = 1}});
  order("abort in setup");
  for (const std::size_t idx : {1U}) kill_and_wait(service.replicas().at(idx).pids.at(0));
  ASSERT_TRUE(wait_until([&] { return state(service, 1) == ReplicaState::quarantined; }));
  order("nothing");
  expect_returns([&] { service.scale(1); }, "scale(1) with a quarantined replica");
  EXPECT_EQ(service.replicas().size(), 1U);
  expect_returns([&] { service.scale(2); }, "scale(2)");
  EXPECT_TRUE(all_healthy(service));
  expect_returns([&] { service.restart_replicas(); }, "restart_replicas()");
  expect_serves(service);
}

TEST_F(Verbs, ScalingDownSendsAReplicaAwayThatWaitsForItsNextStart) {
  const Service service =
      start({.num_replicas = 2, .restart = {.backoff_initial = 1h, .backoff_max = 1h}});
  order("throw in setup");
  kill_and_wait(service.replicas().at(1).pids.at(0));
  ASSERT_TRUE(wait_until([&] {
    const auto replica = service.replicas().at(1);
    return replica.pids.empty() && replica.incarnation == 3;  // the first restart is at once
  }));
  expect_returns([&] { service.scale(1); }, "scale(1) during a back-off");
  EXPECT_EQ(service.replicas().size(), 1U);
  expect_serves(service);
}

TEST_F(Verbs, ScalingDownWhileAShareWaitsForAReplicaThatIsGivenUp) {
  const Service service =
      start({.num_replicas = 2,
             .restart = {.backoff_initial = 1ms, .backoff_max = 1ms, .max_deaths = 1}});
  auto running = service.endpoint<Echo>("sleep_ms").fanout(400);
  auto share = service.endpoint<Echo>("echo").fanout(1);
  order("abort in setup");
  std::thread scaler([&] { expect_returns([&] { service.scale(1); }, "scale(1)"); });
  std::this_thread::sleep_for(100ms);
  for (const auto& replica : service.replicas()) {
    if (replica.idx == 1 && !replica.pids.empty()) kill_and_wait(replica.pids.at(0));
  }
  scaler.join();
  order("nothing");
  for (auto& answer : std::move(await(std::move(running))).value()) (void)answer.has_value();
  EXPECT_EQ(std::move(await(std::move(share))).value().size(), 2U);
  expect_returns([&] { service.restart_replicas(); }, "restart_replicas()");
  expect_serves(service);
}

TEST_F(Verbs, AnActorWhoseDestructorHangsIsKilledAfterTheGracePeriod) {
  const Service service = start({.num_replicas = 2});
  order("hang at the end");
  expect_returns([&] { service.restart_replicas(); }, "restart_replicas()");
  expect_returns([&] { service.scale(1); }, "scale(1)");
  expect_returns([&] { service.update(stubborn_); }, "update()");
  EXPECT_TRUE(all_healthy(service));
  expect_serves(service);
}

TEST_F(Verbs, AReplicaThatLeavesAfterAnErrorAndDoesNotEndIsReplaced) {
  const Service service = start({});
  order("hang at the end");
  EXPECT_EQ(outcome(await(service.endpoint<Echo>("fail").route(1))), "actor_error");
  expect_serves(service);
  EXPECT_EQ(service.replicas().at(0).incarnation, 2U);
}

TEST_F(Verbs, StartTimeoutBindsLaterLivesToo) {
  const Service service = start({.num_replicas = 2, .start_timeout = 500ms});
  order("hang in setup");
  kill_and_wait(service.replicas().at(1).pids.at(0));
  ASSERT_TRUE(wait_until([&] { return service.replicas().at(1).incarnation > 2; }))
      << "the life that hangs in setup() was never given up";
  expect_serves(service);
  order("nothing");
  ASSERT_TRUE(wait_healthy(service));
}

TEST_F(Verbs, UpdateToAVersionThatNeverComesUpIsTakenBack) {
  const Service service = start({.num_replicas = 2, .start_timeout = 500ms});
  order("hang in setup");
  try {
    service.update(stubborn_);
    ADD_FAILURE() << "no error";
  } catch (const PluginError& error) {
    EXPECT_NE(std::string(error.what()).find("start_timeout"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("libstubborn"), std::string::npos) << error.what();
  }
  order("nothing");
  ASSERT_TRUE(wait_healthy(service));
  expect_serves(service);
}

TEST_F(Verbs, CallsThatOverrunQuarantineNobody) {
  const Service service = start({});
  for (int i = 0; i < 8; ++i) {
    const auto answer =
        await(service.endpoint<Echo>("sleep_50_ms").with({.timeout = 30s}).route(60'000 + i));
    EXPECT_EQ(outcome(answer), "worker_lost") << i;
  }
  EXPECT_EQ(service.counters().quarantines, 0U);
  expect_serves(service);
}

TEST_F(Verbs, CallsThatCrashQuarantineNobody) {
  const Service service = start({});
  for (int i = 0; i < 8; ++i) {
    const auto answer = await(service.endpoint<Echo>("crash").with({.timeout = 30s}).route(i));
    EXPECT_EQ(outcome(answer), "worker_lost") << i;
  }
  EXPECT_EQ(service.counters().quarantines, 0U);
  expect_serves(service);
}

TEST_F(Verbs, ACallThatCrashesAgainAndAgainIsRefused) {
  const Service service = start({.num_replicas = 2});
  const auto crash = service.endpoint<Echo>("crash").with({.timeout = 30s});
  EXPECT_EQ(outcome(await(crash.route(13))), "worker_lost");
  ASSERT_TRUE(wait_healthy(service));
  EXPECT_EQ(outcome(await(crash.route(13))), "worker_lost");
  ASSERT_TRUE(wait_healthy(service));
  const auto refused = await(crash.route(13));
  EXPECT_EQ(outcome(refused), "poison_request");
  EXPECT_NE(std::string(refused.error().what()).find("forge replay"), std::string::npos)
      << refused.error().what();
  EXPECT_EQ(outcome(await(crash.route(14))), "worker_lost") << "other arguments are another call";
  ASSERT_TRUE(wait_healthy(service));
  service.restart_replicas();
  EXPECT_EQ(outcome(await(crash.route(13))), "worker_lost") << "it may have been mended";
}

TEST_F(Verbs, QuarantineEndsByItself) {
  const Service service = start(
      {.restart = {
           .backoff_initial = 1ms, .backoff_max = 1ms, .max_deaths = 1, .quarantine = 300ms}});
  order("abort in setup");
  kill_and_wait(service.replicas().at(0).pids.at(0));
  ASSERT_TRUE(wait_until([&] { return state(service, 0) == ReplicaState::quarantined; }));
  EXPECT_EQ(outcome(await(service.endpoint<Echo>("echo").route(1))), "unavailable");
  order("nothing");
  ASSERT_TRUE(wait_healthy(service));
  expect_serves(service);
}

/// Blocks every call that it routes, and with it its service's lock.
TEST_F(Verbs, AServiceWhoseRouterBlocksHoldsUpNoOther) {
  const auto router = std::make_shared<HoldRouter>();
  const Service other = start({.routers = {{"echo", router}}});
  const Service service = start({.restart = restart_at_once()});
  std::thread blocked([&] { (void)await(other.endpoint<Echo>("echo").route(1)); });
  router->wait_held();
  kill_and_wait(service.replicas().at(0).pids.at(0));
  EXPECT_TRUE(wait_healthy(service)) << "its worker is replaced meanwhile";
  expect_serves(service);
  auto late = service.endpoint<Echo>("sleep_ms").with({.timeout = 50ms}).route(1'000);
  std::atomic<bool> reported{false};
  auto chained = std::move(late).then([&](const Result<std::int64_t>& answer) {
    reported = !answer.has_value();
    return 0;
  });
  EXPECT_TRUE(wait_until([&] { return reported.load(); }, 900ms)) << "deadlines are reported";
  router->release();
  blocked.join();
  (void)await(std::move(chained));
}

/// Verbs of several threads, kills and failing updates in random order; then all is well again.
TEST_F(Verbs, InAnyOrder) {
  const Service service = start({.num_replicas = 2,
                                 .min_replicas = 0,
                                 .max_replicas = 3,
                                 .restart = restart_at_once(),
                                 .start_timeout = 5s,
                                 .spares = 1});
  std::mt19937_64 seeds(test_seed());
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int caller = 0; caller < 2; ++caller) {
    threads.emplace_back([&] {
      const auto echo = service.endpoint<Echo>("echo").with({.timeout = 30s});
      for (std::int64_t i = 0; !done; ++i) {
        const auto answer = await(echo.route(i));
        if (answer.has_value() && answer.value() != i) ++wrong;
      }
    });
  }
  threads.emplace_back([&, random = std::mt19937_64(seeds())]() mutable {
    while (!done) {
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % 8));
      const auto pids = pids_of(service);
      if (!pids.empty() && random() % 2 == 0) ::kill(pids[random() % pids.size()], SIGKILL);
      order(random() % 8 == 0 ? "throw in setup" : "nothing");
    }
  });
  std::vector<std::thread> verbs;
  for (int thread = 0; thread < 2; ++thread) {
    verbs.emplace_back([&, random = std::mt19937_64(seeds())]() mutable {
      for (int i = 0; i < 25; ++i) {
        switch (random() % 4) {
          case 0:
            expect_returns([&] { service.restart_replicas(); }, "restart_replicas()");
            break;
          case 1:
            expect_returns([&] { service.update(stubborn_); }, "update()");
            break;
          default:
            expect_returns([&, count = static_cast<int>(random() % 4)] { service.scale(count); },
                           "scale()");
        }
      }
    });
  }
  for (std::thread& thread : verbs) thread.join();
  done = true;
  for (std::thread& thread : threads) thread.join();
  order("nothing");
  EXPECT_EQ(wrong, 0);
  expect_returns([&] { service.restart_replicas(); }, "restart_replicas()");
  expect_returns([&] { service.scale(2); }, "scale(2)");
  ASSERT_TRUE(wait_healthy(service));
  expect_serves(service);
}

}  // namespace
}  // namespace forge::e2e
