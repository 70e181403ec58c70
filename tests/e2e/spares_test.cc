// Warm spares: replicas that are up and idle until one dies.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "tests/e2e/fixture.h"

namespace forge::e2e {
namespace {

using Echo = std::int64_t(std::int64_t);

class Spares : public FaultyTest {
 protected:
  static std::vector<int> spare_pids(const Service& service) {
    std::vector<int> all;
    for (const ReplicaStatus& spare : service.spares())
      all.insert(all.end(), spare.pids.begin(), spare.pids.end());
    return all;
  }
  [[nodiscard]] static bool wait_spares(const Service& service) {
    return wait_until([&] {
      for (const ReplicaStatus& spare : service.spares()) {
        if (!spare.healthy) return false;
      }
      return true;
    });
  }
};

class SparesOf : public Spares, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, SparesOf, ::testing::Values(1, 2));

TEST_P(SparesOf, TakeOverForOneThatDies) {
  Service service = start({.procs = GetParam(), .num_replicas = 2, .spares = 1});
  ASSERT_EQ(service.replicas().size(), 2U);
  ASSERT_EQ(service.spares().size(), 1U);
  ASSERT_TRUE(service.spares().at(0).healthy) << "it is up when the service is";
  const std::vector<int> ready = spare_pids(service);
  ASSERT_EQ(ready.size(), static_cast<std::size_t>(GetParam()));
  kill_and_wait(service.replicas().at(1).pids.at(0));
  ASSERT_TRUE(wait_restarted(service, 1, 1));
  EXPECT_EQ(service.replicas().at(1).pids, ready) << "the processes are the spare's";
  EXPECT_EQ(service.replicas().at(1).incarnation, 2U);
  EXPECT_EQ(service.counters().takeovers, 1U);
  for (const auto& answer : service.endpoint<Echo>("echo").fanout(7).get())
    EXPECT_EQ(answer.value(), 7);
  ASSERT_TRUE(wait_spares(service)) << "there is a new one";
  EXPECT_NE(spare_pids(service), ready);
}

TEST_F(Spares, AreGivenNoCalls) {
  Service service = start({.num_replicas = 2, .spares = 2});
  EXPECT_EQ(service.endpoint<Echo>("echo").fanout(1).get().size(), 2U);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(service.endpoint<Echo>("echo").route(i).get(), i);
  const MetricsSummary summary = service.get_metrics_summary();
  EXPECT_EQ(summary.replicas.size(), 2U);
  EXPECT_EQ(summary.service.total_replicas, 2U);
  EXPECT_EQ(summary.service.healthy_replicas, 2U);
}

TEST_F(Spares, ThatDieAreReplaced) {
  Service service = start({.restart = restart_at_once(), .spares = 1});
  for (std::uint64_t life = 1; life < 4; ++life) {
    kill_and_wait(spare_pids(service).at(0));
    ASSERT_TRUE(wait_until([&] {
      const ReplicaStatus spare = service.spares().at(0);
      return spare.healthy && spare.incarnation > life;
    }));
  }
  EXPECT_EQ(service.replicas().at(0).incarnation, 1U);
  EXPECT_EQ(service.endpoint<Echo>("echo").route(3).get(), 3);
}

TEST_F(Spares, FinishWhatTheDeadHadNotStarted) {
  Service service = start({.spares = 1});
  auto running =
      service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), 0, 600'000);
  ASSERT_TRUE(tally_.wait_for(0));
  std::vector<Future<void>> behind;
  for (std::int64_t value = 1; value <= 50; ++value)
    behind.push_back(service.endpoint<Record>("record").route(tally_.path(), value));
  kill_and_wait(pids_of(service).at(0));
  EXPECT_EQ(outcome(await(std::move(running))), "worker_lost");
  EXPECT_EQ(outcomes(behind), (Outcomes{{"ok", 50}}));
  EXPECT_EQ(service.counters().takeovers, 1U);
  for (std::int64_t value = 1; value <= 50; ++value) ASSERT_EQ(tally_.count(value), 1) << value;
}

TEST_F(Spares, KnowWhoTheyHaveBecome) {
  using Numbers = std::vector<std::int64_t>();
  Service service = controller_.load(plugin_path("payloads"))
                        .actor("Payloads")
                        .options({.num_replicas = 2, .spares = 1})
                        .as_service();
  kill_and_wait(service.replicas().at(1).pids.at(0));
  ASSERT_TRUE(wait_restarted(service, 1, 1));
  const auto numbers = service.endpoint<Numbers>("context_numbers").fanout().get();
  EXPECT_EQ(numbers.at(1).value().at(2), 1) << "the replica";
  EXPECT_EQ(numbers.at(1).value().at(3), 2) << "its incarnation";
}

TEST_F(Spares, LoseNothingUnderKillsOfAllKinds) {
  const Footprint before = Footprint::now();
  {
    Service service = start({.num_replicas = 2, .restart = restart_at_once(), .spares = 2});
    std::minstd_rand random(static_cast<unsigned>(test_seed()));
    std::atomic<bool> done{false};
    std::thread killer([&] {
      for (int i = 0; i < 60; ++i) {
        std::vector<int> pids = pids_of(service);
        for (const int pid : spare_pids(service)) pids.push_back(pid);
        if (!pids.empty()) ::kill(pids[random() % pids.size()], SIGKILL);
        std::this_thread::sleep_for(5ms);
      }
      done = true;
    });
    const auto record = service.endpoint<Record>("record");
    Outcomes seen;
    for (std::int64_t value = 1'000'000; !done;) {
      std::vector<Future<void>> futures;
      for (int i = 0; i < 10; ++i) futures.push_back(record.route(tally_.path(), value++));
      for (const auto& [what, count] : outcomes(futures)) seen[what] += count;
    }
    killer.join();
    for (const auto& [what, count] : seen)
      EXPECT_TRUE(what == "ok" || what == "worker_lost") << what;
    for (const auto& [value, times] : tally_.counts()) ASSERT_EQ(times, 1) << value;
    EXPECT_GT(service.counters().takeovers, 0U);
  }
  EXPECT_TRUE(returns_to(before));
}

TEST_F(Spares, AreReplacedWithTheReplicas) {
  Service service = start({.spares = 1});
  const std::vector<int> old = spare_pids(service);
  service.restart_replicas();
  ASSERT_TRUE(wait_spares(service));
  for (const int pid : old) EXPECT_TRUE(gone(pid));
  EXPECT_NE(pids_of(service), old);
  EXPECT_EQ(service.endpoint<Echo>("echo").route(3).get(), 3);
}

}  // namespace
}  // namespace forge::e2e
