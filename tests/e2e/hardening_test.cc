// Faults that are told apart: poison from bad luck, stopped from busy, stuck from dead.
#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/fixture.h"
#include "tests/e2e/holder.h"

namespace forge::e2e {
namespace {

constexpr std::int64_t kForEver = 600'000;  // ms; ended by a kill

std::uint64_t deaths_of(const Service& service) {
  std::uint64_t deaths = 0;
  for (const auto& replica : service.replicas()) deaths += replica.incarnation - 1;
  return deaths;
}

class Hardening : public FaultyTest {
 protected:
  /// Endpoints that end the process, as if they might be run again.
  static std::map<std::string, EndpointOptions> harmless() {
    std::map<std::string, EndpointOptions> endpoints;
    for (const char* name : {"abort", "segfault", "exit", "kill"})
      endpoints[name] = {.idempotent = true};
    return endpoints;
  }
};
using Fault = Hardening;
using TorchforgeDefect = Hardening;

// ---- poison

class FaultOf : public Hardening, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, FaultOf, ::testing::Values("abort", "segfault"));

TEST_P(FaultOf, PoisonRequest) {
  Service service = start({.num_replicas = 2, .endpoints = harmless()});
  const auto result = await(service.endpoint<void()>(GetParam()).route());
  ASSERT_EQ(outcome(result), "poison_request");
  EXPECT_NE(std::string(result.error().what()).find("the last: rank 0"), std::string::npos)
      << result.error().what();
  ASSERT_TRUE(wait_healthy(service));
  EXPECT_EQ(deaths_of(service), 2);
  EXPECT_EQ(service.counters().poisoned, 1);
}

TEST_F(TorchforgeDefect, APoisonCallDoesNotWalkTheFleet) {
  // Not more than five deaths in a minute are put up with, but those of poison count for nothing.
  Service service = start({.num_replicas = 4, .endpoints = harmless()});
  auto record = service.endpoint<Record>("record");
  auto abort = service.endpoint<void()>("abort");
  constexpr int kCalls = 4'000;
  constexpr int kEvery = 200;
  std::vector<Future<void>> others;
  std::vector<Future<void>> poison;
  for (int value = 0; value < kCalls; ++value) {
    if (value % kEvery == kEvery / 2) poison.push_back(abort.route());
    others.push_back(record.route(tally_.path(), value));
  }
  const std::size_t poisonous = poison.size();
  EXPECT_EQ(outcomes(poison), (Outcomes{{"poison_request", poisonous}}));
  EXPECT_EQ(outcomes(others), (Outcomes{{"ok", kCalls}}));
  const auto counts = tally_.counts();
  EXPECT_EQ(counts.size(), static_cast<std::size_t>(kCalls));
  for (const auto& [value, times] : counts) ASSERT_EQ(times, 1) << value;
  ASSERT_TRUE(wait_healthy(service));
  EXPECT_EQ(deaths_of(service), 2 * poisonous);
}

TEST_F(Fault, NoPoisonRequestByKillsFromOutside) {
  Service service = start({.restart = restart_at_once()});
  auto future = service.endpoint<RecordAndSleep>("record_and_sleep_idempotent")
                    .route(tally_.path(), 1, 1'000);
  for (int execution = 1; execution <= 2; ++execution) {
    ASSERT_TRUE(tally_.wait_for(1, execution));
    kill_and_wait(pids_of(service).front());
  }
  EXPECT_EQ(outcome(await(std::move(future))), "ok");
  EXPECT_EQ(service.counters().poisoned, 0);
}

TEST_F(Hardening, CallThatOverrunsTwiceIsPoisonAndItsNeighboursAreNot) {
  auto limited = harmless();
  limited["record_and_sleep_idempotent"] = {.idempotent = true, .exec_timeout = 100ms};
  Service service = start({.restart = restart_at_once(), .endpoints = limited});
  auto hangs = service.endpoint<RecordAndSleep>("record_and_sleep_idempotent")
                   .route(tally_.path(), 1, kForEver);
  auto next = service.endpoint<Record>("record").route(tally_.path(), 2);
  const auto result = await(std::move(hangs));
  ASSERT_EQ(outcome(result), "poison_request");
  EXPECT_NE(std::string(result.error().what()).find("exec_timeout"), std::string::npos)
      << result.error().what();
  EXPECT_EQ(outcome(await(std::move(next))), "ok");
  EXPECT_EQ(tally_.count(1), 2);
  EXPECT_EQ(tally_.count(2), 1);
}

// What interleaves dies together: only a death alone tells who did it.
TEST_F(Hardening, PoisonAmongCoroutinesIsFoundByADeathAlone) {
  Plugin tasks = controller_.load(plugin_path("tasks"));
  EndpointOptions idempotent{.idempotent = true};
  Service service = tasks.actor("Tasks")
                        .options({.replica_max_concurrent_requests = 16,
                                  .restart = restart_at_once(),
                                  .endpoints = {{"die", idempotent}}})
                        .as_service();
  auto nap = service.endpoint<std::int64_t(std::int64_t, std::int64_t)>("nap_idempotent");
  std::vector<Future<std::int64_t>> naps;
  for (std::int64_t i = 0; i < 8; ++i) naps.push_back(nap.route(i, 300));
  auto poison = service.endpoint<void()>("die").route();
  for (std::int64_t i = 0; i < 8; ++i) naps.push_back(nap.route(i, 300));
  EXPECT_EQ(outcome(await(std::move(poison))), "poison_request");
  EXPECT_EQ(outcomes(naps), (Outcomes{{"ok", 16}}));
  ASSERT_TRUE(wait_healthy(service));
  EXPECT_EQ(deaths_of(service), 2);
}

// What is kept of a poison request can be run again: `forge replay`.
class Kept : public Hardening {
 protected:
  /// The file that the error names, once it is there.
  static std::string file_of(const Error& error) {
    const std::string text = error.what();
    const std::string before = "forge replay ";
    const auto at = text.rfind(before);
    if (at == std::string::npos) return {};
    std::string path = text.substr(at + before.size());
    return wait_until([&] { return std::filesystem::exists(path); }) ? path : std::string();
  }
  static CommandRun replay(const std::string& path) { return run_forge("replay '" + path + "'"); }
  static ControllerOptions keep_in(const std::string& folder) {
    ControllerOptions options = quiet();
    options.poison_dir = folder;
    return options;
  }

  const std::string kept_ = folder_.file("kept");
  Controller keeper_{keep_in(kept_)};
  Plugin plugin_ = keeper_.load(plugin_path("faulty"));
};

TEST_F(Kept, PoisonKillsWhoeverReplaysIt) {
  Service service = plugin_.actor("Faulty").options({.endpoints = harmless()}).as_service();
  const auto result = await(service.endpoint<void(std::int64_t)>("exit").route(7));
  ASSERT_EQ(outcome(result), "poison_request");
  const std::string path = file_of(result.error());
  ASSERT_FALSE(path.empty()) << result.error().what();
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const CommandRun run = replay(path);
  EXPECT_TRUE(WIFEXITED(run.status) && WEXITSTATUS(run.status) == 7) << run.output;
  EXPECT_NE(run.output.find("Faulty.exit"), std::string::npos) << run.output;
  EXPECT_NE(run.output.find("exited with status 7"), std::string::npos) << run.output;
}

TEST_F(Kept, OverrunIsAnsweredWhereNobodyLooksAtTheClock) {
  EndpointOptions short_lived{.idempotent = true, .exec_timeout = std::chrono::milliseconds(60)};
  Service service =
      plugin_.actor("Faulty")
          .options({.restart = restart_at_once(), .endpoints = {{"sleep_ms", short_lived}}})
          .as_service();
  const auto result = await(service.endpoint<void(std::int64_t)>("sleep_ms").route(400));
  ASSERT_EQ(outcome(result), "poison_request");
  const CommandRun run = replay(file_of(result.error()));
  EXPECT_EQ(run.status, 0) << run.output;
  EXPECT_NE(run.output.find("the request answered"), std::string::npos) << run.output;
}

TEST_F(Kept, FolderOfSomebodyElseIsNotWrittenTo) {
  std::filesystem::create_directory(kept_);
  std::filesystem::permissions(kept_, std::filesystem::perms::all);
  Service service = plugin_.actor("Faulty").options({.endpoints = harmless()}).as_service();
  EXPECT_EQ(outcome(await(service.endpoint<void()>("abort").route())), "poison_request");
  service.shutdown();
  EXPECT_TRUE(std::filesystem::is_empty(kept_));
}

TEST_F(Kept, WhatIsNoRecordingIsRefused) {
  for (const char* text : {"", "short", "forgerec but nothing behind it that fits at all"}) {
    const std::string path = folder_.file("damaged");
    std::ofstream(path) << text;
    const CommandRun run = replay(path);
    EXPECT_TRUE(WIFEXITED(run.status) && WEXITSTATUS(run.status) == 2) << run.output;
    EXPECT_NE(run.output.find(path), std::string::npos) << run.output;
  }
}

// ---- stopped

TEST_F(Fault, WorkerStopped) {
  Service service = start({.health_poll_rate = 20ms, .restart = restart_at_once()});
  ::kill(pids_of(service).front(), SIGSTOP);
  // It had not started: it is replayed, and executed once.
  EXPECT_EQ(outcome(await(service.endpoint<Record>("record").route(tally_.path(), 1))), "ok");
  EXPECT_EQ(tally_.count(1), 1);
  EXPECT_EQ(deaths_of(service), 1);
}

TEST_F(Fault, WorkerStoppedWhileExecuting) {
  Service service = start({.health_poll_rate = 20ms, .restart = restart_at_once()});
  auto lost =
      service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), 1, kForEver);
  ASSERT_TRUE(tally_.wait_for(1));
  ::kill(pids_of(service).front(), SIGSTOP);
  const auto result = await(std::move(lost));
  ASSERT_EQ(outcome(result), "worker_lost");
  EXPECT_NE(std::string(result.error().what()).find("a signal had stopped it"), std::string::npos)
      << result.error().what();
  ASSERT_TRUE(wait_healthy(service));
  auto again =
      service.endpoint<RecordAndSleep>("record_and_sleep_idempotent").route(tally_.path(), 2, 300);
  ASSERT_TRUE(tally_.wait_for(2));
  ::kill(pids_of(service).front(), SIGSTOP);
  EXPECT_EQ(outcome(await(std::move(again))), "ok");
  EXPECT_EQ(tally_.count(2), 2);
}

TEST_F(Hardening, WorkerStoppedInSetupIsReplaced) {
  Service service = start({.health_poll_rate = 20ms, .restart = restart_at_once()});
  // The next incarnation stops as soon as it is there.
  const int first = pids_of(service).front();
  kill_and_wait(first);
  ASSERT_TRUE(wait_until([&] {
    const auto pids = pids_of(service);
    if (pids.empty() || pids.front() == first) return false;
    ::kill(pids.front(), SIGSTOP);
    return true;
  }));
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(7).get(), 7);
}

TEST_F(Fault, WorkerSilentButNotStopped) {
  Service service = start({.health_poll_rate = 10ms});
  EXPECT_EQ(outcome(await(service.endpoint<void(std::int64_t)>("sleep_ms").route(800))), "ok");
  EXPECT_EQ(outcome(await(service.endpoint<void(std::int64_t)>("spin_ms").route(800))), "ok");
  EXPECT_EQ(deaths_of(service), 0);
}

TEST_F(Hardening, WorkerThatIsStoppedAndHasNothingToDoIsLeftAlone) {
  Service service = start({.num_replicas = 2,
                           .health_poll_rate = 10ms,
                           .routers = {{"sleep_ms", std::make_shared<PinRouter>(0)}}});
  const int idle = service.replicas().at(1).pids.at(0);
  ::kill(idle, SIGSTOP);
  EXPECT_EQ(outcome(await(service.endpoint<void(std::int64_t)>("sleep_ms").route(500))), "ok");
  ::kill(idle, SIGCONT);
  EXPECT_EQ(deaths_of(service), 0);
}

// ---- what the dead leave behind

TEST_F(Hardening, IdleServiceKeepsNothingOfDeadWorkers) {
  Service service = start({.num_replicas = 2, .restart = restart_at_once()});
  auto nap = service.endpoint<void(std::int64_t)>("sleep_ms");
  for (int i = 0; i < 4; ++i) nap.route(20).get();
  for (int round = 0; round < 2; ++round) {
    for (const int pid : pids_of(service)) kill_and_wait(pid);
    ASSERT_TRUE(wait_healthy(service));
    nap.route(1).get();
  }
  const Footprint before = Footprint::now();
  for (const int pid : pids_of(service)) kill_and_wait(pid);
  ASSERT_TRUE(wait_healthy(service));
  EXPECT_TRUE(returns_to(before)) << "nobody has called since";
}

// ---- stuck

TEST_F(Fault, WorkerThatSigkillDoesNotEnd) {
  auto pin = std::make_shared<PinRouter>(0);
  Service service = start(
      {.num_replicas = 2,
       .restart = restart_at_once(),
       .routers = {{"record_and_sleep", pin}, {"record", pin}},
       .endpoints = {{"record_and_sleep", {.exec_timeout = std::chrono::milliseconds(100)}}}});
  const int pid = service.replicas().at(0).pids.at(0);
  Holder holder(pid);
  if (!holder.holds()) GTEST_SKIP() << "this system lets nobody trace a process";
  auto started =
      service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), 1, kForEver);
  auto record = service.endpoint<Record>("record");
  std::vector<Future<void>> queued;  // more than a worker's ring holds
  for (int value = 2; value < 600; ++value) queued.push_back(record.route(tally_.path(), value));
  EXPECT_EQ(outcome(await(std::move(started))), "worker_lost");
  EXPECT_EQ(outcomes(queued), (Outcomes{{"ok", 598}}));
  EXPECT_FALSE(gone(pid)) << "it was held";
  EXPECT_EQ(tally_.count(2), 1);
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(7).get(), 7);
  holder.release();
  EXPECT_TRUE(wait_restarted(service, 0, 1));
}

}  // namespace
}  // namespace forge::e2e
