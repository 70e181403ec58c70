// Limits on executions: exec_timeout ends what runs too long, restart_on_error replaces a replica
// whose endpoint has failed.
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Limits : public ::testing::Test {
 protected:
  Service serve(const std::string& endpoint, const EndpointOptions& limited, int replicas = 1) {
    Options options;
    options.num_replicas = replicas;
    options.restart.backoff_initial = 0ms;
    options.endpoints[endpoint] = limited;
    return faulty.actor("Faulty").options(std::move(options)).as_service();
  }
  static std::uint64_t incarnation(const Service& service) {
    return service.replicas().at(0).incarnation;
  }

  std::mutex mutex;
  std::vector<std::string> lines;
  ControllerOptions loud() {
    ControllerOptions options;
    options.log_level = LogLevel::warning;
    options.on_log = [this](LogLevel, std::string_view text) {
      const std::lock_guard lock(mutex);
      lines.emplace_back(text);
    };
    return options;
  }
  std::vector<std::string> logged() {
    const std::lock_guard lock(mutex);
    return lines;
  }
  Controller controller{loud()};
  Plugin faulty = controller.load(plugin_path("faulty"));
};
using Fault = Limits;

TEST_F(Fault, ExecutionLongerThanExecTimeout) {
  const Service service = serve("spin_ms", {.exec_timeout = 50ms});
  auto stuck = service.endpoint<void(std::int64_t)>("spin_ms").route(600'000);
  auto behind = service.endpoint<std::int64_t(std::int64_t)>("echo").route(3);
  EXPECT_THAT(error_of<WorkerLost>(std::move(stuck)),
              AllOf(HasSubstr("exec_timeout"), HasSubstr("spin_ms")));
  EXPECT_EQ(value_of(std::move(behind)), 3) << "it had not started";
  EXPECT_EQ(incarnation(service), 2u);
  controller.shutdown();  // all lines have come
  EXPECT_THAT(logged(),
              ::testing::Contains(AllOf(HasSubstr("spin_ms"), HasSubstr("exec_timeout"))));
}

TEST_F(Limits, LetIdempotentCallsTryAgain) {
  const Service service =
      serve("sleep_ms_idempotent", {.idempotent = true, .exec_timeout = 20ms}, 2);
  auto stuck = service.endpoint<void(std::int64_t)>("sleep_ms_idempotent").route(600'000);
  error_of<PoisonRequest>(std::move(stuck));
  EXPECT_EQ(service.counters().retries, 1u) << "two executions in all";
}

TEST_F(Limits, LeaveAloneWhatEndsInTime) {
  const Service service = serve("sleep_ms", {.exec_timeout = 60s});
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  std::vector<Future<void>> futures;
  for (int i = 0; i < 40; ++i) futures.push_back(sleep.route(5));  // together longer than a look
  for (auto& future : futures) await(std::move(future)).value();
  EXPECT_EQ(incarnation(service), 1u);
}

TEST_F(Limits, RestartAReplicaWhoseEndpointFailed) {
  const Service service = serve("throw_error", {.restart_on_error = true});
  const auto fail = service.endpoint<void(std::string)>("throw_error");
  const auto calls = service.endpoint<std::int64_t()>("pid");
  const std::int64_t before = value_of(calls.route());
  std::vector<Future<std::int64_t>> behind;
  auto failing = fail.route(std::string("enough"));
  for (int i = 0; i < 20; ++i) behind.push_back(calls.route());
  EXPECT_THAT(error_of<ActorError>(std::move(failing)), HasSubstr("enough")) << "answered first";
  for (auto& future : behind) EXPECT_NE(value_of(std::move(future)), before) << "by the next one";
  EXPECT_EQ(incarnation(service), 2u);
  for (int i = 0; i < 8; ++i) error_of<ActorError>(fail.route(std::string("again")));
  EXPECT_NE(value_of(calls.route()), before) << "wanted restarts quarantine nobody";
}

TEST_F(Limits, DoNotRestartForErrorsOtherwise) {
  const Service service = serve("throw_error", {});
  for (int i = 0; i < 5; ++i)
    error_of<ActorError>(
        service.endpoint<void(std::string)>("throw_error").route(std::string("fine")));
  EXPECT_EQ(incarnation(service), 1u);
}

}  // namespace
}  // namespace forge::e2e
