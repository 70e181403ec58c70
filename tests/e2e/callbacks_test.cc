// What the embedding program hands to forge to be called: it may ask, it may hang, it may throw.
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

using ::testing::Contains;
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

 private:
  std::mutex mutex_;
  std::vector<std::string> lines_;
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

}  // namespace
}  // namespace forge::e2e
