// System call number n fails, for each n: while a service starts, restarts a replica and is shut
// down, in the controller and in workers. Each time a typed error or recovery, and nothing leaks.
#include <forge/plugin.h>

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "tests/e2e/fixture.h"
#include "tests/failpoints/failing_calls.h"

namespace {

class Echo : public forge::ForgeActor {
 public:
  /// Adds up its ranks' ones first.
  std::int64_t echo(std::int64_t value) const {
    std::int64_t ranks = 1;
    forge::context().group().all_reduce(std::span(&ranks, 1), forge::Reduction::sum);
    return value * ranks / forge::context().procs();
  }
  forge::Tensor zeros(std::int64_t count) const {
    return forge::context().allocate(forge::DType::u8, {count});
  }
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Echo>("Echo", "Answers with what it is given.")
      .service_endpoint("echo", &Echo::echo, {.idempotent = true})
      .service_endpoint("zeros", &Echo::zeros, {.idempotent = true});
}

namespace forge::failpoints {
namespace {

using e2e::outcome;
using e2e::wait_until;
using namespace std::chrono_literals;

/// More than there are: a loop that does not end has to.
constexpr int kMostCalls = 1000;

Options options(int procs) {
  return {.procs = procs,
          .num_replicas = procs == 1 ? 2 : 1,
          .restart = e2e::restart_at_once(),
          .arena_bytes = std::size_t{1} << 20};
}

void expect_serves(const Service& service) {
  EXPECT_EQ(outcome(e2e::await(service.endpoint<std::int64_t(std::int64_t)>("echo").route(7))),
            "ok");
}

/// Says that there is not enough of something; an actor that asks for its group hears it, and its
/// caller that the actor failed of it.
void expect_clear(const Error& error) {
  const std::string text = error.what();
  const bool by_actor =
      error.code() == "actor_error" && text.find("forge::Unavailable: ") != text.npos;
  EXPECT_TRUE(error.code() == "unavailable" || by_actor) << error.code() << ": " << text;
}

class FailingCalls : public ::testing::Test {
 protected:
  FailingCalls() {
    once([] {});
  }  // what a first time leaves behind is no leak
  ~FailingCalls() override {
    std::string all;
    for (const std::string& call : failed_) all += " " + call;
    std::printf("failed:%s\n", all.c_str());
  }

  /// With each call failing in turn; `live` says when to begin and when to end.
  void each(const std::function<void()>& live) {
    const e2e::Footprint before = e2e::Footprint::now();
    for (int n = 1; n < kMostCalls; ++n) {
      n_ = n;
      call_.clear();
      live();
      stop();
      SCOPED_TRACE("call " + std::to_string(n) + ": " + call_);
      EXPECT_TRUE(returns_to(before));
      if (HasFailure()) FAIL() << "when it failed";
      if (call_.empty()) return;
      failed_.insert(call_);
    }
    ADD_FAILURE() << "there is no end to them";
  }
  void begin() const { fail_call(n_); }
  void stop() {
    const std::string call = stop_failing();
    if (!call.empty()) call_ = call;
  }
  void once(const std::function<void()>& work) const {
    Controller controller(e2e::quiet());
    Service service = controller.self().actor("Echo").options(options(1)).as_service();
    work();
  }

  int n_ = 0;
  std::string call_;
  std::set<std::string> failed_;
};
/// With two replicas of one rank, or one of two.
class FailingCallsOf : public FailingCalls, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, FailingCallsOf, ::testing::Values(1, 2));

TEST_F(FailingCalls, WhileAServiceStarts) {
  each([&] {
    try {
      begin();
      Controller controller(e2e::quiet());
      Plugin plugin = controller.self();
      Service service = plugin.actor("Echo").options(options(2)).as_service();
      stop();
      expect_serves(service);
    } catch (const Error& error) {
      stop();
      expect_clear(error);
    }
  });
}

TEST_F(FailingCalls, WhichIsTheThreadThatStartsAService) {
  Controller controller(e2e::quiet());
  Plugin plugin = controller.self();
  fail_call(1);
  auto future = plugin.actor("Echo").options(options(2)).as_service_async();
  EXPECT_EQ(stop_failing(), "pthread_create");
  EXPECT_EQ(outcome(e2e::await(std::move(future))), "unavailable");
}

TEST_P(FailingCallsOf, WhileAReplicaIsReplaced) {
  Controller controller(e2e::quiet());
  Plugin plugin = controller.self();
  each([&] {
    Service service = plugin.actor("Echo").options(options(GetParam())).as_service();
    begin();
    const int pid = service.replicas().at(0).pids.at(0);
    ::kill(pid, SIGKILL);
    EXPECT_TRUE(e2e::wait_restarted(service, 0, 1));
    stop();
    expect_serves(service);
  });
}

TEST_F(FailingCalls, WhileAServiceIsShutDown) {
  each([&] {
    auto controller = std::make_unique<Controller>(e2e::quiet());
    Service service = controller->self().actor("Echo").options(options(2)).as_service();
    expect_serves(service);
    begin();
    service.shutdown();
    controller.reset();
  });
}

TEST_P(FailingCallsOf, InAWorker) {
  e2e::TemporaryFolder folder;
  Controller controller(e2e::quiet());
  Plugin plugin = controller.self();
  each([&] {
    const std::string report = folder.file(std::to_string(n_));
    Options failing = options(GetParam());
    failing.env = {{kFailCall, std::to_string(n_)}, {kFailReport, report}};
    try {
      Service service = plugin.actor("Echo").options(failing).as_service();
      const auto zeros = service.endpoint<Tensor(std::int64_t)>("zeros");
      for (const std::int64_t size : {10, 200'000, 600'000}) {
        const auto result = e2e::await(zeros.route(size));
        if (!result) expect_clear(result.error());
      }
      // The group is made by the first call that asks for it.
      const auto first = e2e::await(service.endpoint<std::int64_t(std::int64_t)>("echo").route(1));
      if (!first) expect_clear(first.error());
      expect_serves(service);
    } catch (const Error& error) {
      // A worker that has no channel yet can only end.
      if (outcome(Result<int>(error.clone())) != "worker_lost") expect_clear(error);
    }
    std::getline(std::ifstream(report), call_);
  });
}

}  // namespace
}  // namespace forge::failpoints

int main(int argc, char** argv) {
  forge::failpoints::fail_call_as_told();
  forge::init(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
