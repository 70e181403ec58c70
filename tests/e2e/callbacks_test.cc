// What the embedding program hands to forge to be called: it may ask, it may hang, it may throw.
#include <algorithm>
#include <atomic>
#include <coroutine>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::HasSubstr;
using Echo = std::int64_t(std::int64_t);

class Callbacks : public ::testing::Test {
 protected:
  using OnLog = std::function<void(LogLevel, std::string_view)>;

  /// A controller that hands every line to `on_log`.
  Controller& controller(OnLog on_log) {
    ControllerOptions options;
    options.log_level = LogLevel::debug;
    options.on_log = std::move(on_log);
    return controller_.emplace(std::move(options));
  }
  Controller& listening() {
    return controller([this](LogLevel, std::string_view text) {
      const std::lock_guard lock(mutex_);
      lines_.emplace_back(text);
    });
  }
  bool hears(const std::string& text) {
    return wait_until([&] {
      const std::lock_guard lock(mutex_);
      return std::ranges::any_of(
          lines_, [&](const std::string& line) { return line.find(text) != std::string::npos; });
    });
  }
  static ActorFactory faulty(Controller& controller, Options options = {}) {
    options.restart = restart_at_once();
    return controller.load(plugin_path("faulty")).actor("Faulty").options(std::move(options));
  }

  std::mutex mutex_;
  std::vector<std::string> lines_;

 private:
  std::optional<Controller> controller_;  // last: it calls what uses the above
};

TEST_F(Callbacks, OnLogMayAskHowTheServiceStands) {
  std::promise<Service*> promise;
  const auto known = promise.get_future().share();
  std::atomic<int> asked{0};
  Controller& logging = controller([&](LogLevel, std::string_view) {
    if (known.wait_for(0s) != std::future_status::ready) return;
    (void)known.get()->replicas();
    (void)known.get()->get_metrics_summary();
    ++asked;
  });
  Service service = faulty(logging).as_service();
  promise.set_value(&service);
  kill_and_wait(pids_of(service).at(0));
  EXPECT_TRUE(wait_restarted(service, 0, 1));
  EXPECT_EQ(value_of(service.endpoint<Echo>("echo").route(7)), 7);
  service.shutdown();
  logging.shutdown();
  EXPECT_GT(asked, 2);
}

TEST_F(Callbacks, AnOnLogThatHangsHoldsUpNothing) {
  std::promise<void> never;
  auto hung = std::make_shared<std::shared_future<void>>(never.get_future());
  Controller& logging = controller([hung](LogLevel, std::string_view) { hung->wait(); });
  Service service = faulty(logging).as_service();
  for (std::uint64_t life = 1; life <= 3; ++life) {
    kill_and_wait(pids_of(service).at(0));
    ASSERT_TRUE(wait_restarted(service, 0, life));
    EXPECT_EQ(value_of(service.endpoint<Echo>("echo").route(7)), 7);
  }
  service.shutdown();
  logging.shutdown();
  never.set_value();
}

TEST_F(Callbacks, AllLinesAreWithOnLogWhenTheControllerIsDown) {
  Controller& logging = listening();
  Service service = faulty(logging, {.name = "short"}).as_service();
  service.shutdown();
  logging.shutdown();
  EXPECT_TRUE(hears("service 'short': has stopped"));
}

TEST_F(Callbacks, AnOnActorFailureThatThrowsIsLogged) {
  Controller& logging = listening();
  logging.on_actor_failure([](const ActorFailure&) { throw std::runtime_error("it has no bed"); });
  const ActorMesh mesh = faulty(logging).as_actor();
  kill_and_wait(mesh.pids().at(0));
  EXPECT_TRUE(hears("on_actor_failure"));
  EXPECT_TRUE(hears("it has no bed"));
  EXPECT_EQ(outcome(await(mesh.endpoint<Echo>("echo").call_one(1))), "worker_lost");
}

/// A coroutine of the program's own that lets what it throws out of resume().
struct Loose {
  struct promise_type {
    Loose get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const { throw; }
  };
  std::coroutine_handle<promise_type> frame;
};

TEST_F(Callbacks, ACoroutineThatThrowsOutOfItsAwaitIsLogged) {
  const Service service = faulty(listening()).as_service();
  const auto echo = service.endpoint<Echo>("echo");
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  const Loose loose = [](Future<void> nap) -> Loose {
    co_await std::move(nap);
    throw std::runtime_error("nobody catches this");
  }(sleep.route(50));
  EXPECT_TRUE(hears("nobody catches this"));
  loose.frame.destroy();  // it ended by throwing, which nobody else cleans up after
  EXPECT_EQ(value_of(echo.route(1).then([](std::int64_t one) { return one + 1; })), 2);
}

TEST_F(Callbacks, AFactoryOfRoutersMayThrowOrGiveNoneOrAsk) {
  Controller& logging = listening();
  logging.register_router(
      "throws", []() -> std::shared_ptr<Router> { throw std::runtime_error("there is no map"); });
  logging.register_router("none", [] { return nullptr; });
  logging.register_router("asks", [&] {
    logging.register_router("made by another", [] { return std::make_shared<PinRouter>(); });
    return std::make_shared<PinRouter>();
  });
  const auto serve = [&](const std::string& router) {
    return faulty(logging, {.endpoints = {{"echo", {.router = router}}}}).as_service();
  };
  EXPECT_THAT(message_of<InvalidArgument>([&] { (void)serve("throws"); }),
              HasSubstr("router 'throws': its factory threw: there is no map"));
  EXPECT_THAT(message_of<InvalidArgument>([&] { (void)serve("none"); }),
              HasSubstr("router 'none': its factory gave none"));
  EXPECT_EQ(value_of(serve("asks").endpoint<Echo>("echo").route(3)), 3);
}

/// Asks the service that it decides for, and throws the first time.
struct AskingPolicy : ScalingPolicy {
  ScalingDecision decide(const ScalingInput& input) override {
    if (Service* const asked = service.load()) {
      (void)asked->replicas();
      if (++answers == 1) throw std::runtime_error("no idea");
    }
    return {input.replicas, "as it is"};
  }
  std::atomic<Service*> service{nullptr};
  std::atomic<int> answers{0};
};

TEST_F(Callbacks, AScalingPolicyMayAskAndThrow) {
  const auto policy = std::make_shared<AskingPolicy>();
  Options options{.max_replicas = 2};
  options.autoscaling.enabled = true;
  options.autoscaling.policy = policy;
  Service service = faulty(listening(), options).as_service();
  policy->service = &service;
  EXPECT_TRUE(wait_until([&] { return policy->answers >= 2; }));
  EXPECT_EQ(value_of(service.endpoint<Echo>("echo").route(3)), 3);
}

/// Errors that nobody receives.
class Unheard : public Callbacks {
 protected:
  using Throws = void(const std::string&);

  static std::uint64_t unheard(const Service& service, const std::string& endpoint) {
    const auto counts = service.get_metrics_summary().endpoints.at(endpoint).unheard;
    const auto found = counts.find("actor_error");
    return found == counts.end() ? 0 : found->second;
  }
  std::size_t lines_with(const std::string& text) {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::ranges::count_if(
        lines_, [&](const std::string& line) { return line.find(text) != std::string::npos; }));
  }
};

TEST_F(Unheard, ABroadcastThatThrowsIsLoggedOnceAndCounted) {
  ActorMesh mesh = faulty(listening(), {.procs = 2, .name = "crowd"}).as_actor();
  const auto fail = mesh.endpoint<Throws>("throw_error");
  for (int i = 0; i < 100; ++i) fail.broadcast("nobody hears me");
  value_of(mesh.endpoint<Echo>("echo").call(1));  // behind them
  EXPECT_TRUE(hears("nobody hears me"));
  mesh.shutdown();
  EXPECT_TRUE(hears("99 errors of throw_error that nobody received (actor_error, 100 in all)"));
  EXPECT_EQ(lines_with("nobody hears me"), 2U);
}

TEST_F(Unheard, DroppedFuturesAndTheirContinuationsAreLoggedOnceEachAndCounted) {
  Controller& logging = listening();
  Service service = faulty(logging, {.name = "shy"}).as_service();
  const auto fail = service.endpoint<Throws>("throw_error");
  const auto echo = service.endpoint<Echo>("echo");
  for (int i = 0; i < 10; ++i) (void)fail.route("dropped at once");
  {
    auto late = fail.route("dropped late");
    EXPECT_TRUE(late.wait_for(kPatience));
  }
  (void)fail.route("passed on").then([] {});
  for (int i = 0; i < 5; ++i)
    (void)echo.route(1).then([](std::int64_t) { throw std::runtime_error("after the answer"); });
  EXPECT_TRUE(wait_until([&] { return unheard(service, "throw_error") == 12; }));
  EXPECT_TRUE(wait_until([&] { return unheard(service, "echo") == 5; }));
  // These are received.
  EXPECT_EQ(outcome(await(fail.route("heard"))), "actor_error");
  EXPECT_EQ(outcome(await(fail.route("heard").then([] {}))), "actor_error");
  value_of(fail.route("heard").then([](const Result<void>&) {}));
  service.shutdown();
  logging.shutdown();
  EXPECT_EQ(unheard(service, "throw_error"), 12U);
  EXPECT_EQ(lines_with("errors of throw_error") + lines_with("error of throw_error"), 2U);
  EXPECT_EQ(lines_with("after the answer"), 2U);
}

TEST_F(Unheard, ATaskThatNobodyWaitsForIsLogged) {
  const Service service = faulty(listening()).as_service();
  const auto task = [](Endpoint<Echo> echo) -> Task<void> {
    co_await echo.route(1);
    throw std::runtime_error("a task fails");
  };
  (void)start(task(service.endpoint<Echo>("echo")));
  EXPECT_TRUE(hears("a task fails"));
}

}  // namespace
}  // namespace forge::e2e
