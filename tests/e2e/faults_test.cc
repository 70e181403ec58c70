// Workers die at known moments; what becomes of the calls is what CONTRACT §4 says.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/fixture.h"

namespace forge::e2e {
namespace {

constexpr std::int64_t kForEver = 600'000;  // ms; ended by a kill

class Faults : public FaultyTest {
 protected:
  /// One replica, busy for ever with a call that recorded `value`.
  Future<void> occupy(const Service& service, std::int64_t value) {
    auto future =
        service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), value, kForEver);
    EXPECT_TRUE(tally_.wait_for(value));
    return future;
  }
};
using Fault = Faults;

TEST_F(Fault, WorkerKilledWhileExecuting) {
  Service service = start({.restart = restart_at_once()});
  auto running = occupy(service, 1);
  auto record = service.endpoint<Record>("record");
  std::vector<Future<void>> queued;
  for (int value = 2; value < 400; ++value) queued.push_back(record.route(tally_.path(), value));
  kill_and_wait(pids_of(service).front());

  const auto lost = await(std::move(running));
  ASSERT_EQ(outcome(lost), "worker_lost");
  EXPECT_TRUE(dynamic_cast<const WorkerLost&>(lost.error()).maybe_executed());
  EXPECT_EQ(outcomes(queued), (Outcomes{{"ok", 398}}));
  std::vector<std::int64_t> expected;  // once each, and in order
  for (int value = 1; value < 400; ++value) expected.push_back(value);
  EXPECT_EQ(tally_.lines(), expected);
}

TEST_F(Fault, WorkerKilledBeforeAnExecutionStarted) {
  auto router = std::make_shared<PinRouter>(1);
  Service service = start({.num_replicas = 2,
                           .health_poll_rate = 1h,
                           .restart = restart_at_once(),
                           .routers = {{"record", router}, {"pid", router}}});
  const int pid = service.replicas().at(1).pids.at(0);
  ::kill(pid, SIGSTOP);
  auto future = service.endpoint<Record>("record").route(tally_.path(), 7);
  EXPECT_FALSE(future.wait_for(20ms));
  kill_and_wait(pid);
  EXPECT_EQ(outcome(await(std::move(future))), "ok");
  EXPECT_EQ(tally_.count(7), 1);
}

TEST_F(Fault, WorkerKilledWhileExecutingAnIdempotentCall) {
  Service service = start({.restart = restart_at_once()});
  auto future = service.endpoint<RecordAndSleep>("record_and_sleep_idempotent")
                    .route(tally_.path(), 5, 1'000);
  ASSERT_TRUE(tally_.wait_for(5));
  kill_and_wait(pids_of(service).front());
  EXPECT_EQ(outcome(await(std::move(future))), "ok");
  EXPECT_EQ(tally_.count(5), 2);
}

TEST_F(Faults, GivesAnIdempotentCallUpAfterThreeExecutions) {
  Service service = start({.restart = restart_at_once()});
  auto future = service.endpoint<RecordAndSleep>("record_and_sleep_idempotent")
                    .route(tally_.path(), 5, kForEver);
  for (int execution = 1; execution <= 3; ++execution) {
    ASSERT_TRUE(tally_.wait_for(5, execution));
    ASSERT_TRUE(wait_healthy(service));
    kill_and_wait(pids_of(service).front());
  }
  const auto result = await(std::move(future));
  ASSERT_EQ(outcome(result), "worker_lost");
  EXPECT_TRUE(dynamic_cast<const WorkerLost&>(result.error()).maybe_executed());
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(1).get(), 1);
  EXPECT_EQ(tally_.count(5), 3);
}

TEST_F(Fault, WorkerKilledAfterTheAnswerWasPublished) {
  auto hold = std::make_shared<HoldRouter>();
  Service service = start({.health_poll_rate = 1h,
                           .restart = restart_at_once(),
                           .routers = {{"echo_idempotent", hold}}});
  const int pid = pids_of(service).front();
  ::kill(pid, SIGSTOP);
  auto published = service.endpoint<Record>("record_idempotent").route(tally_.path(), 1);
  auto running =
      service.endpoint<RecordAndSleep>("record_and_sleep").route(tally_.path(), 2, kForEver);
  std::thread holder([&] {
    const auto echo = service.endpoint<std::int64_t(std::int64_t)>("echo_idempotent").route(3);
    (void)echo;
  });
  hold->wait_held();
  ::kill(pid, SIGCONT);
  EXPECT_TRUE(tally_.wait_for(2));  // the second runs: the first has been published
  ::kill(pid, SIGKILL);             // its reaper may be waiting for the lock
  EXPECT_TRUE(wait_until([&] { return ended(pid); }));
  hold->release();
  holder.join();
  EXPECT_EQ(outcome(await(std::move(published))), "ok");
  EXPECT_EQ(outcome(await(std::move(running))), "worker_lost");
  EXPECT_EQ(tally_.count(1), 1);
}

class FatalEndpoint : public Faults, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, FatalEndpoint,
                         ::testing::Values("abort", "segfault", "kill", "exit"));

TEST_P(FatalEndpoint, LosesThatCallAlone) {
  Service service = start({.restart = restart_at_once()});
  const std::string name = GetParam();
  auto record = service.endpoint<Record>("record");
  std::vector<Future<void>> others;
  others.push_back(record.route(tally_.path(), 0));
  auto fatal = name == "exit" ? service.endpoint<void(std::int64_t)>(name).route(0)
                              : service.endpoint<void()>(name).route();
  for (int value = 1; value < 20; ++value) others.push_back(record.route(tally_.path(), value));
  const auto result = await(std::move(fatal));
  ASSERT_EQ(outcome(result), "worker_lost");
  EXPECT_TRUE(dynamic_cast<const WorkerLost&>(result.error()).maybe_executed());
  EXPECT_NE(std::string(result.error().what()).find(name), std::string::npos)
      << result.error().what();
  EXPECT_EQ(outcomes(others), (Outcomes{{"ok", 20}}));
  for (const auto& [value, times] : tally_.counts()) EXPECT_EQ(times, 1) << value;
}

TEST_F(Fault, EndpointThrows) {
  Service service = start({});
  const auto before = pids_of(service);
  const auto error =
      await(service.endpoint<void(const std::string&)>("throw_error").route("why not"));
  ASSERT_EQ(outcome(error), "actor_error");
  EXPECT_EQ(dynamic_cast<const ActorError&>(error.error()).text(), "why not");
  EXPECT_EQ(outcome(await(service.endpoint<void(std::int64_t)>("throw_int").route(3))),
            "actor_error");
  EXPECT_EQ(pids_of(service), before);
}

TEST_F(Fault, NoReplicaUsableWhileOneRecovers) {
  Service service = faulty_.actor("FaultySetup")
                        .options({.num_replicas = 2, .restart = restart_at_once()})
                        .as_service("sleep", std::int64_t{300}, "");
  for (const int pid : pids_of(service)) kill_and_wait(pid);
  ASSERT_TRUE(wait_until([&] {
    const auto replicas = service.replicas();
    return std::ranges::none_of(replicas, [](const auto& replica) { return replica.healthy; });
  }));
  auto echo = service.endpoint<std::int64_t(std::int64_t)>("echo");
  EXPECT_EQ(outcome(await(echo.fanout(1))), "no_healthy_replicas");
  EXPECT_EQ(outcome(await(echo.with({.timeout = 10ms}).route(1))), "deadline_exceeded");
  EXPECT_EQ(await(echo.route(2)).value(), 2);
}

TEST_F(Faults, ShareThatNeverStartedWaitsForItsReplica) {
  auto router = std::make_shared<PinRouter>(0);
  Service service = start(
      {.num_replicas = 2, .restart = restart_at_once(), .routers = {{"record_and_sleep", router}}});
  auto running = occupy(service, 1);
  const auto replicas = service.replicas();
  auto shares = service.endpoint<std::int64_t()>("pid").fanout();
  kill_and_wait(replicas.at(0).pids.at(0));
  auto results = await(std::move(shares)).value();
  ASSERT_EQ(results.size(), 2U);
  ASSERT_TRUE(wait_healthy(service));
  EXPECT_EQ(results.at(0).value(), service.replicas().at(0).pids.at(0));
  EXPECT_EQ(results.at(1).value(), replicas.at(1).pids.at(0));
  EXPECT_EQ(outcome(await(std::move(running))), "worker_lost");
}

TEST_F(Faults, ShareThatHadStartedGetsItsOwnError) {
  Service service = start({.num_replicas = 2, .restart = restart_at_once()});
  for (const bool idempotent : {false, true}) {
    ASSERT_TRUE(wait_healthy(service));
    const int value = idempotent ? 2 : 1;
    auto shares = service
                      .endpoint<RecordAndSleep>(idempotent ? "record_and_sleep_idempotent"
                                                           : "record_and_sleep")
                      .fanout(tally_.path(), value, 1'000);
    ASSERT_TRUE(tally_.wait_for(value, 2));
    kill_and_wait(service.replicas().at(0).pids.at(0));
    auto results = await(std::move(shares)).value();
    ASSERT_EQ(results.size(), 2U);
    EXPECT_EQ(outcome(results.at(0)), idempotent ? "ok" : "worker_lost");
    EXPECT_EQ(outcome(results.at(1)), "ok");
    EXPECT_EQ(tally_.count(value), idempotent ? 3 : 2);
  }
}

TEST_F(Fault, CrashLoop) {
  auto router = std::make_shared<PinRouter>(1);
  Service service = start({.num_replicas = 2,
                           .restart = {.backoff_initial = 1ms, .backoff_max = 1ms, .max_deaths = 2},
                           .routers = {{"pid", router}}});
  const auto pid = service.endpoint<std::int64_t()>("pid");
  for (const std::uint32_t victim : {1, 0}) {
    router->target = victim;
    int deaths = 0;
    const auto state = [&] { return service.replicas().at(victim).state; };
    do {  // it crashes by itself, with nothing to do
      const int crashing = service.replicas().at(victim).pids.at(0);
      ::kill(crashing, SIGABRT);
      ASSERT_TRUE(wait_until([&] { return gone(crashing); }));
      ASSERT_TRUE(wait_until([&] {
        return (state() == ReplicaState::healthy &&
                service.replicas().at(victim).pids.at(0) != crashing) ||
               state() == ReplicaState::quarantined;
      }));
    } while (++deaths < 10 && state() != ReplicaState::quarantined);
    EXPECT_EQ(deaths, 3);
    if (victim == 1) {  // the rest goes on
      EXPECT_EQ(await(pid.route()).value(), service.replicas().at(0).pids.at(0));
      EXPECT_EQ(await(pid.fanout()).value().size(), 1U);
    }
  }
  EXPECT_EQ(outcome(await(pid.route())), "unavailable");
  EXPECT_EQ(service.counters().quarantines, 2U);
}

TEST_F(Faults, QuarantineAnswersTheShareThatWaitedForTheReplica) {
  Service service =
      start({.num_replicas = 2, .health_poll_rate = 1h, .restart = {.max_deaths = 0}});
  const int pid = service.replicas().at(0).pids.at(0);
  ::kill(pid, SIGSTOP);
  auto shares = service.endpoint<std::int64_t()>("pid").fanout();
  ::kill(pid, SIGABRT);  // before it runs on: the share has not started
  ::kill(pid, SIGCONT);
  auto results = await(std::move(shares)).value();
  EXPECT_EQ(outcome(results.at(0)), "unavailable");
  EXPECT_EQ(outcome(results.at(1)), "ok");
}

class FatalSetup : public Faults,
                   public ::testing::WithParamInterface<std::tuple<const char*, const char*>> {};
INSTANTIATE_TEST_SUITE_P(All, FatalSetup,
                         ::testing::Combine(::testing::Values("FaultySetup", "FaultyConstructor"),
                                            ::testing::Values("throw", "throw_int", "abort", "exit",
                                                              "segfault", "kill")));

TEST_P(FatalSetup, FailsTheStartWithItsTextAndLeavesNothing) {
  const auto [actor, fault] = GetParam();
  const auto before = Footprint::now();
  const auto factory = faulty_.actor(actor).options({.procs = 2, .num_replicas = 2});
  // Three workers of four are well.
  try {
    Service service = factory.as_service(fault, std::int64_t{0}, folder_.file("first"));
    FAIL() << "it started";
  } catch (const Error& error) {
    const bool threw = std::string_view(fault).starts_with("throw");
    EXPECT_EQ(error.code(), threw ? "actor_error" : "worker_lost") << error.what();
    if (std::string_view(fault) == "throw") {
      EXPECT_NE(std::string(error.what()).find("faulty on demand"), std::string::npos)
          << error.what();
    }
  }
  EXPECT_TRUE(returns_to(before));
  EXPECT_NO_THROW(factory.as_service(fault, std::int64_t{0}, folder_.file("first")));
}

TEST_F(Faults, StartDoesNotHangWhenAReplicaDiesWhileAnotherIsStillStarting) {
  const auto before = children();
  auto starting = faulty_.actor("FaultySetup")
                      .options({.num_replicas = 2, .start_timeout = 20s})
                      .as_service_async("sleep", std::int64_t{3'000}, folder_.file("slow"));
  // The quick one has taken the plugin in and waits for calls while the other one sleeps.
  std::set<int> now;
  ASSERT_TRUE(wait_until([&] {
    now = children();
    return now.size() == before.size() + 2 && std::filesystem::exists(folder_.file("slow"));
  }));
  std::this_thread::sleep_for(1s);  // it is up: nothing outside of forge can tell
  for (const int pid : now) {
    if (before.contains(pid)) continue;
    std::ifstream file("/proc/" + std::to_string(pid) + "/wchan");
    std::string where;
    if (file >> where && where.find("futex") != std::string::npos) ::kill(pid, SIGKILL);
  }
  const auto result = await(std::move(starting));
  EXPECT_NE(outcome(result), "deadline_exceeded");
}

TEST_F(Fault, PluginMissingAtARestart) {
  const std::string plugin = folder_.file("libmoved.so");
  std::filesystem::copy_file(plugin_path("faulty"), plugin);
  Service service =
      controller_.load(plugin).actor("Faulty").options({.restart = restart_at_once()}).as_service();
  std::filesystem::rename(plugin, plugin + ".away");
  ::kill(pids_of(service).front(), SIGKILL);
  ASSERT_TRUE(wait_until([&] { return service.replicas().at(0).incarnation >= 3; }));
  auto waiting = service.endpoint<std::int64_t(std::int64_t)>("echo").route(1);
  std::filesystem::rename(plugin + ".away", plugin);
  EXPECT_EQ(await(std::move(waiting)).value(), 1);
}

TEST_F(Fault, NoReplicaUsableAndNoneComesBack) {
  const std::string plugin = folder_.file("libgone.so");
  std::filesystem::copy_file(plugin_path("faulty"), plugin);
  Service service = controller_.load(plugin)
                        .actor("Faulty")
                        .options({.restart = {.backoff_initial = 20ms, .max_deaths = 3}})
                        .as_service();
  std::filesystem::remove(plugin);
  ::kill(pids_of(service).front(), SIGKILL);
  ASSERT_TRUE(wait_until([&] { return !service.replicas().at(0).healthy; }));
  auto waiting = service.endpoint<std::int64_t(std::int64_t)>("echo").route(1);
  const auto result = await(std::move(waiting));
  ASSERT_EQ(outcome(result), "unavailable");
  EXPECT_NE(std::string(result.error().what()).find("libgone.so"), std::string::npos)
      << result.error().what();
}

TEST_F(Faults, ComesBackAfterRunningOutOfDescriptors) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  Service service = start({.restart = restart_at_once()});
  ASSERT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(1).get(), 1);
  auto running = occupy(service, 1);
  auto waiting = service.endpoint<std::int64_t(std::int64_t)>("echo").route(2);
  const int pid = pids_of(service).front();
  const rlimit none{3, before.rlim_max};  // open ones stay open
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  ::kill(pid, SIGKILL);
  const bool tried = wait_until([&] { return service.replicas().at(0).incarnation >= 2; }, 5s);
  std::this_thread::sleep_for(50ms);  // several attempts
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(tried);
  EXPECT_EQ(outcome(await(std::move(running))), "worker_lost");
  EXPECT_EQ(outcome(await(std::move(waiting))), "ok");
}

/// Two replicas; the first one that dies does not come up again.
class TorchforgeDefect : public Faults {
 protected:
  static ControllerOptions impatient() {
    ControllerOptions options = quiet();
    options.shutdown_grace = 100ms;
    return options;
  }
  Service start_two(std::map<std::string, std::shared_ptr<Router>> routers = {}) {
    std::ofstream(marker_) << "nobody is slow at first";
    Service service =
        plugin_.actor("FaultySetup")
            .options(
                {.num_replicas = 2, .restart = restart_at_once(), .routers = std::move(routers)})
            .as_service("sleep", kForEver, marker_);
    std::filesystem::remove(marker_);
    return service;
  }
  /// The next life of the first that is killed sets itself up for ever.
  void kill_for_good(const Service& service, std::size_t idx) {
    kill_and_wait(service.replicas().at(idx).pids.at(0));
    ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(marker_); }));
  }

 private:
  const std::string marker_ = folder_.file("slow");
  Controller controller_{impatient()};
  Plugin plugin_ = controller_.load(plugin_path("faulty"));
};

TEST_F(TorchforgeDefect, AQueueMovesWhenItsReplicaDies) {
  auto router = std::make_shared<PinRouter>(0);
  Service service = start_two({{"record_and_sleep", router}, {"record", router}});
  auto running = occupy(service, -1);
  auto record = service.endpoint<Record>("record");
  std::vector<Future<void>> queued;  // more than a worker's ring holds
  std::vector<std::int64_t> expected = {-1};
  for (int value = 0; value < 600; ++value) {
    queued.push_back(record.route(tally_.path(), value));
    expected.push_back(value);
  }
  kill_for_good(service, 0);
  EXPECT_EQ(outcome(await(std::move(running))), "worker_lost");
  EXPECT_EQ(outcomes(queued), (Outcomes{{"ok", 600}}));
  EXPECT_EQ(tally_.lines(), expected) << "once each, and in order";
}

TEST_F(TorchforgeDefect, ASlowRecoveryDoesNotDelayAnother) {
  Service service = start_two();
  kill_for_good(service, 0);
  kill_and_wait(service.replicas().at(1).pids.at(0));
  ASSERT_TRUE(wait_restarted(service, 1, 1));
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(1).get(), 1);
  EXPECT_EQ(service.replicas().at(0).state, ReplicaState::recovering);
}

TEST_F(Faults, QueueLimitsDoNotBindCallsThatMoveAfterADeath) {
  Service service =
      start({.num_replicas = 2, .restart = restart_at_once(), .max_queued_requests = 400});
  auto running = service.endpoint<RecordAndSleep>("record_and_sleep")
                     .fanout(tally_.path(), std::int64_t{-1}, kForEver);
  ASSERT_TRUE(tally_.wait_for(-1, 2));
  auto record = service.endpoint<Record>("record");
  std::vector<Future<void>> accepted;
  for (int value = 0; value < 700; ++value) {  // round robin: 350 each
    accepted.push_back(record.route(tally_.path(), value));
    ASSERT_FALSE(accepted.back().wait_for(0ms)) << "refused: " << value;
  }
  for (const auto& replica : service.replicas()) ::kill(replica.pids.at(0), SIGKILL);
  EXPECT_EQ(outcomes(accepted), (Outcomes{{"ok", 700}}));
  const auto shares = await(std::move(running)).value();
  for (const auto& share : shares) EXPECT_EQ(outcome(share), "worker_lost");
  const auto counts = tally_.counts();
  EXPECT_EQ(counts.size(), 701U);
  for (const auto& [value, times] : counts) EXPECT_EQ(times, value < 0 ? 2 : 1) << value;
}

}  // namespace
}  // namespace forge::e2e
