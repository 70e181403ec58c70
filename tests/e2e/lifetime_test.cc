// The end of services and controllers, and what outlives them: every future completes, nothing of the
// system is kept (I1, I5).
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/e2e/fixture.h"

extern char** environ;

namespace forge::e2e {
namespace {

constexpr std::int64_t kForEver = 600'000;  // ms; ended by a kill
using Echo = std::int64_t(std::int64_t);
using Sleep = void(std::int64_t);

class Lifetime : public ::testing::Test {
 protected:
  Lifetime() { options_.log_level = LogLevel::off; }
  /// All threads and processes of forge belong to the test that made it.
  Controller& controller() {
    if (!controller_) controller_.emplace(options_);
    return *controller_;
  }
  Service start(const std::string& plugin, const std::string& actor, Options options) {
    return controller().load(plugin_path(plugin)).actor(actor).options(options).as_service();
  }

  TemporaryFolder folder_;
  Tally tally_{folder_};
  ControllerOptions options_;
  const Footprint before_ = Footprint::now();
  std::optional<Controller> controller_;
};
using Fault = Lifetime;
using TorchforgeDefect = Lifetime;

TEST_F(Lifetime, CallsCompleteWhileNobodyWaitsForThem) {
  for (const Wait wait : {Wait::adaptive, Wait::block, Wait::spin}) {
    Service service = start("faulty", "Faulty", {.wait = wait});
    std::atomic<int> done{0};
    for (int round = 1; round <= 3; ++round) {
      for (int i = 0; i < 2; ++i) {
        auto next = service.endpoint<Sleep>("sleep_ms").route(20).then([&] { ++done; });
        (void)next;
      }
      ASSERT_TRUE(wait_until([&] { return done == 2 * round; }, 5s))
          << "wait strategy " << static_cast<int>(wait) << ", round " << round;
    }
  }
}

TEST_F(Lifetime, ShutdownDrainsWithinTheGracePeriod) {
  Service service = start("faulty", "Faulty", {});
  std::vector<Future<std::int64_t>> futures;
  auto running = service.endpoint<Sleep>("sleep_ms").route(300);
  for (int i = 0; i < 400; ++i) futures.push_back(service.endpoint<Echo>("echo").route(i));
  service.shutdown();
  EXPECT_EQ(outcome(await(std::move(running))), "ok");
  EXPECT_EQ(outcomes(futures), (Outcomes{{"ok", 400}}));
  EXPECT_TRUE(children().empty());
}

TEST_F(TorchforgeDefect, StopAnswersAll) {
  options_.shutdown_grace = 100ms;
  Service service = start("faulty", "Faulty", {.procs = 2, .num_replicas = 2});
  const auto echo = service.endpoint<Echo>("echo");
  std::vector<Future<std::int64_t>> queued;
  auto running = service.endpoint<Sleep>("sleep_ms").fanout(kForEver);
  for (int i = 0; i < 1'000; ++i) queued.push_back(echo.route(i));
  std::thread waiter([&] { EXPECT_EQ(outcome(await(echo.route(1))), "stopped"); });
  ::kill(service.replicas().at(1).pids.at(1), SIGSTOP);  // cannot even be asked
  service.shutdown();
  EXPECT_TRUE(children().empty());
  EXPECT_EQ(outcomes(queued), (Outcomes{{"stopped", 1'000}}));
  const auto shares = await(std::move(running)).value();
  for (const auto& share : shares) EXPECT_EQ(outcome(share), "stopped");
  waiter.join();
  EXPECT_EQ(outcome(await(echo.route(1))), "stopped");
  EXPECT_THROW(service.endpoint<Echo>("echo"), Stopped);
  EXPECT_THROW(service.allocate(DType::u8, {1}), Stopped);
  service.shutdown();  // once is enough
}

TEST_F(Lifetime, ServiceMayGoWhileOthersWaitForItsAnswers) {
  options_.shutdown_grace = 100ms;
  std::vector<std::thread> waiters;
  std::atomic<int> waiting{0};
  {
    Service service = start("faulty", "Faulty", {});
    auto sleep = service.endpoint<Sleep>("sleep_ms");
    for (int i = 0; i < 4; ++i) {
      waiters.emplace_back([&, future = sleep.route(kForEver)]() mutable {
        ++waiting;
        EXPECT_EQ(outcome(future.result()), "stopped");
      });
    }
    ASSERT_TRUE(wait_until([&] { return waiting == 4; }));
  }
  for (auto& waiter : waiters) waiter.join();
}

TEST_F(Lifetime, FuturesOutliveServiceAndController) {
  options_.shutdown_grace = 100ms;
  std::vector<Future<std::int64_t>> answered;
  std::vector<Future<void>> stopped;
  std::vector<Future<std::int64_t>> refused;
  {
    Service service = start("faulty", "Faulty", {});
    const auto echo = service.endpoint<Echo>("echo");
    for (int i = 0; i < 10; ++i) answered.push_back(echo.route(i));
    for (int i = 0; i < 10; ++i)
      stopped.push_back(service.endpoint<Sleep>("sleep_ms").route(kForEver));
    controller().shutdown();
    for (int i = 0; i < 10; ++i) refused.push_back(echo.route(i));
  }
  controller_.reset();
  for (std::int64_t i = 0; i < 10; ++i) EXPECT_EQ(answered[static_cast<std::size_t>(i)].get(), i);
  EXPECT_EQ(outcomes(stopped), (Outcomes{{"stopped", 10}}));
  EXPECT_EQ(outcomes(refused), (Outcomes{{"stopped", 10}}));
  answered.clear();
  EXPECT_TRUE(returns_to(before_));
}

TEST_F(Lifetime, RefusedFuturesOutliveEverything) {
  std::optional<Future<std::int64_t>> refused;
  {
    Service service = start("faulty", "Faulty", {});
    const auto echo = service.endpoint<Echo>("echo");
    service.shutdown();
    refused = echo.route(1);
  }
  controller_.reset();
  EXPECT_EQ(outcome(await(std::move(*refused))), "stopped");
  refused.reset();
  EXPECT_TRUE(returns_to(before_));
}

TEST_F(Lifetime, DroppedFuturesLeaveNothing) {
  {
    Service service = start("faulty", "Faulty", {.num_replicas = 2});
    for (int i = 0; i < 500; ++i) {
      const auto dropped = service.endpoint<Echo>("echo").route(i);
      const auto shares = service.endpoint<Echo>("echo").fanout(i);
      (void)dropped, (void)shares;
    }
  }
  controller_.reset();
  EXPECT_TRUE(returns_to(before_));
}

TEST_F(Lifetime, ExceptionsUnwindThroughRunningServices) {
  std::optional<Future<void>> running;
  try {
    Service service = start("faulty", "Faulty", {});
    running = service.endpoint<Sleep>("sleep_ms").route(kForEver);
    throw std::runtime_error("the job fails");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(outcome(await(std::move(*running))), "stopped");
  EXPECT_TRUE(children().empty());
}

TEST_F(Lifetime, StartingEndsWithTheController) {
  for (int round = 0; round < 12; ++round) {
    options_.shutdown_grace = 1ms;
    Plugin plugin = controller().load(plugin_path("faulty"));
    auto starting = plugin.actor("FaultySetup")
                        .options({.num_replicas = 2, .start_timeout = 1min})
                        .as_service_async("sleep", std::int64_t{round % 3 == 0 ? 10'000 : 0}, "");
    std::this_thread::sleep_for(std::chrono::microseconds(400 * round));
    controller_.reset();
    ASSERT_TRUE(starting.wait_for(20s)) << "round " << round << ": nobody completes it";
    (void)starting.result();
  }
  EXPECT_TRUE(returns_to(before_));
}

TEST_F(Lifetime, TensorsOutliveRestartShutdownAndController) {
  std::vector<Tensor> answers;
  std::optional<Tensor> request;
  {
    Service service = start("echo", "Echo", {.restart = restart_at_once()});
    auto echo = service.endpoint<Tensor(Tensor)>("tensor");
    for (int life = 1; life <= 3; ++life) {
      request = service.allocate(DType::i32, {64, 1024});
      std::ranges::fill(request->span<std::int32_t>(), life);
      answers.push_back(await(echo.route(*request)).value());
      kill_and_wait(pids_of(service).front());
      EXPECT_EQ(await(echo.route(answers.back())).value().shape().size(), 2U);
    }
  }
  controller_.reset();
  for (int life = 1; life <= 3; ++life) {
    const Tensor& answer = answers[static_cast<std::size_t>(life - 1)];
    EXPECT_TRUE(std::ranges::all_of(answer.span<const std::int32_t>(),
                                    [&](std::int32_t value) { return value == life; }));
  }
  EXPECT_EQ(request->span<const std::int32_t>()[0], 3);
  EXPECT_EQ(Footprint::now().segments, 4U);  // three lives and the arena
  answers.clear();
  request.reset();
  EXPECT_TRUE(returns_to(before_));
}

TEST_F(Lifetime, ManyRestartsKeepNothing) {
  Service service = start("echo", "Echo", {.num_replicas = 2, .restart = restart_at_once()});
  auto echo = service.endpoint<Tensor(Tensor)>("tensor_idempotent");
  Tensor request(DType::u8, {100'000});
  const auto round = [&] {
    for (const int pid : pids_of(service)) kill_and_wait(pid);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(await(echo.route(request)).value().size(), 100'000U);
    ASSERT_TRUE(wait_healthy(service));
  };
  round();  // the next lives' files have been prepared since
  std::this_thread::sleep_for(50ms);
  const auto baseline = Footprint::now();
  for (int i = 0; i < 25; ++i) round();
  EXPECT_TRUE(returns_to(baseline));
  service.shutdown();
  controller_.reset();
  service = Service(nullptr);
  echo = decltype(echo)({});
  EXPECT_TRUE(returns_to(before_));
}

TEST_F(Lifetime, NothingIsKeptForAReplicaThatWasWaitingForItsRestart) {
  std::atomic<bool> far_away{false};
  options_.log_level = LogLevel::warning;
  options_.on_log = [&](LogLevel, std::string_view text) {
    if (text.find("incarnation 4") != std::string_view::npos) far_away = true;
  };
  (void)controller();
  const std::string plugin = folder_.file("libgone.so");
  std::filesystem::copy_file(plugin_path("faulty"), plugin);
  const auto baseline = Footprint::now();
  {
    Service service = controller()
                          .load(plugin)
                          .actor("Faulty")
                          .options({.restart = {.backoff_initial = 1h, .backoff_max = 1h}})
                          .as_service();
    std::filesystem::remove(plugin);
    ::kill(pids_of(service).front(), SIGKILL);
    // The second and third lives fail in setup; the fourth is an hour away.
    ASSERT_TRUE(wait_until([&] { return far_away.load(); }));
  }
  EXPECT_TRUE(returns_to(baseline));
}

TEST_F(Fault, ControllerDies) {
  std::string self = std::filesystem::read_symlink("/proc/self/exe");
  std::string flag = "--controller";
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  char* arguments[] = {self.data(), flag.data(), nullptr};
  pid_t helper = -1;
  ASSERT_EQ(::posix_spawn(&helper, self.c_str(), &actions, nullptr, arguments, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::FILE* lines = ::fdopen(ends[0], "r");
  std::vector<int> workers(4);
  for (int& pid : workers) ASSERT_EQ(std::fscanf(lines, "%d", &pid), 1);
  for (const int pid : workers) EXPECT_FALSE(gone(pid));
  ::kill(helper, SIGKILL);
  EXPECT_EQ(::waitpid(helper, nullptr, 0), helper);
  std::fclose(lines);
  // Nobody may reap them where orphans have no parent.
  for (const int pid : workers) EXPECT_TRUE(wait_until([&] { return ended(pid); })) << pid;
}

/// Another process: runs a controller with busy workers, says who they are, and never ends.
int run_controller() {
  Controller controller(quiet());
  Service service = controller.load(plugin_path("faulty"))
                        .actor("Faulty")
                        .options({.procs = 2, .num_replicas = 2})
                        .as_service();
  auto busy = service.endpoint<Sleep>("spin_ms").route(kForEver);
  for (const int pid : pids_of(service)) std::printf("%d\n", pid);
  std::fflush(stdout);
  busy.get();
  return 0;
}

}  // namespace
}  // namespace forge::e2e

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--controller") return forge::e2e::run_controller();
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
