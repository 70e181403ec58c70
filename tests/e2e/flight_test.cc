// What a crashed worker was doing, as the log and `forge postmortem` tell it.
#include <gmock/gmock.h>

#include <mutex>
#include <string>

#include "tests/e2e/fixture.h"
#include "tests/sanitizer.h"

namespace forge::e2e {
namespace {

using ::testing::HasSubstr;

class CrashReport : public ::testing::Test {
 protected:
  ControllerOptions listening() {
    ControllerOptions options;
    options.poison_dir = folder_.file("kept");
    options.on_log = [this](LogLevel, std::string_view text) {
      const std::lock_guard lock(mutex_);
      log_ += std::string(text) + "\n";
    };
    return options;
  }
  std::string log() {
    const std::lock_guard lock(mutex_);
    return log_;
  }
  Service start(Options options) {
    return controller_.load(plugin_path("faulty")).actor("Faulty").options(options).as_service();
  }

  TemporaryFolder folder_;
  std::mutex mutex_;
  std::string log_;
  Controller controller_{listening()};
};

TEST_F(CrashReport, SaysWhatRanAndWhereTheSignalStruck) {
  Service service = start({.env = {{"FORGE_BACKTRACE", "1"}}});
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("echo").route(1).get(), 1);
  EXPECT_EQ(outcome(await(service.endpoint<void()>("abort").route())), "worker_lost");
  ASSERT_TRUE(wait_restarted(service, 0, 1));
  service.shutdown();
  controller_.shutdown();  // all has been written
  EXPECT_THAT(log(), HasSubstr("echo, request"));
  EXPECT_THAT(log(), HasSubstr("was done"));
  EXPECT_THAT(log(), HasSubstr("abort, request"));
  EXPECT_THAT(log(), HasSubstr("was running"));
  if (tests::kUnderAsan) return;  // it has a report of its own
  EXPECT_THAT(log(), HasSubstr("signal 6 (Aborted)"));
  EXPECT_THAT(log(), HasSubstr("libfaulty.so+0x"));
  const CommandRun run = run_forge("postmortem --dir '" + folder_.file("kept") + "'");
  EXPECT_EQ(run.status, 0);
  EXPECT_THAT(run.output, HasSubstr("killed by signal 6"));
  EXPECT_THAT(run.output, HasSubstr("libfaulty.so+0x"));
}

TEST_F(CrashReport, OfOneThatWasKilledSaysWhatItWasDoing) {
  Service service = start({});
  auto running = service.endpoint<void(std::int64_t)>("sleep_ms").route(60'000);
  std::this_thread::sleep_for(20ms);
  const int pid = service.replicas().at(0).pids.at(0);
  ASSERT_TRUE(wait_until(
      [&] { return service.get_metrics_summary().replicas.at(0).active_requests == 1; }));
  ::kill(pid, SIGKILL);
  EXPECT_EQ(outcome(await(std::move(running))), "worker_lost");
  ASSERT_TRUE(wait_restarted(service, 0, 1));
  controller_.shutdown();
  EXPECT_THAT(log(), HasSubstr("sleep_ms, request"));
}

TEST_F(CrashReport, IsNotWrittenForOneThatWasToldToLeave) {
  Service service = start({.num_replicas = 2});
  for (int i = 0; i < 10; ++i) service.endpoint<std::int64_t(std::int64_t)>("echo").route(i).get();
  service.restart_replicas();
  controller_.shutdown();
  EXPECT_THAT(log(), Not(HasSubstr("request")));
}

}  // namespace
}  // namespace forge::e2e
