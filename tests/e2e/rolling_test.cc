// Replicas are replaced while they serve.
#include <string>
#include <thread>

#include "tests/e2e/fixture.h"
#include "tests/e2e/recorders.h"

namespace forge::e2e {
namespace {

class Rolling : public FaultyTest {
 protected:
  static void expect_next_life(const Service& service, std::uint64_t incarnation) {
    for (const auto& replica : service.replicas()) {
      EXPECT_TRUE(replica.healthy) << replica.idx;
      EXPECT_EQ(replica.incarnation, incarnation) << replica.idx;
    }
  }
};

class RollingReplicas : public Rolling, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(All, RollingReplicas, ::testing::Values(1, 3));

TEST_P(RollingReplicas, NoRequestFailsAndEachRunsOnce) {
  Service service = start({.num_replicas = GetParam()});
  Recorders recorders(service, tally_, 1);
  constexpr std::uint64_t kRounds = 4;
  for (std::uint64_t round = 0; round < kRounds; ++round) service.restart_replicas();
  recorders.expect_nothing_lost(1);
  expect_next_life(service, 1 + kRounds);
}

TEST_F(Rolling, WaitsForWhatRuns) {
  Service service = start({});
  auto running = service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), 1, 300);
  ASSERT_TRUE(tally_.wait_for(1));
  auto behind = service.endpoint<Record>("record").route(tally_.path(), 2);
  service.restart_replicas();
  EXPECT_EQ(outcome(await(std::move(running))), "ok");
  EXPECT_EQ(outcome(await(std::move(behind))), "ok");
  expect_next_life(service, 2);
}

TEST_F(Rolling, LockstepReplicasToo) {
  Service service = start({.procs = 2, .num_replicas = 2});
  service.restart_replicas();
  expect_next_life(service, 2);
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(3).get(), 3);
}

TEST_F(Rolling, RevivesTheQuarantined) {
  Service service = start({.num_replicas = 2, .restart = {.max_deaths = 0}});
  ::kill(service.replicas().at(0).pids.at(0), SIGABRT);
  ASSERT_TRUE(
      wait_until([&] { return service.replicas().at(0).state == ReplicaState::quarantined; }));
  service.restart_replicas();
  expect_next_life(service, 2);
}

TEST_F(Rolling, SurvivesADeathMeanwhile) {
  Service service = start({.restart = restart_at_once()});
  auto running =
      service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), 1, 600'000);
  ASSERT_TRUE(tally_.wait_for(1));
  std::thread roller([&] { service.restart_replicas(); });
  std::this_thread::sleep_for(50ms);
  kill_and_wait(pids_of(service).at(0));
  roller.join();
  EXPECT_EQ(outcome(await(std::move(running))), "worker_lost");
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(3).get(), 3);
}

TEST_F(Rolling, EndsWithTheService) {
  ControllerOptions hasty = quiet();
  hasty.shutdown_grace = 200ms;
  Controller controller(hasty);
  Service service = controller.load(plugin_path("faulty")).actor("Faulty").as_service();
  auto running =
      service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), 1, 600'000);
  ASSERT_TRUE(tally_.wait_for(1));
  std::string said;
  std::thread roller([&] {
    try {
      service.restart_replicas();
    } catch (const Error& error) {
      said = error.code();
    }
  });
  std::this_thread::sleep_for(50ms);
  controller.shutdown();
  roller.join();
  EXPECT_EQ(said, "stopped");
  EXPECT_EQ(outcome(await(std::move(running))), "stopped");
}

}  // namespace
}  // namespace forge::e2e
