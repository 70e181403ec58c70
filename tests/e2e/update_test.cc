// A running service is given another version of its plugin.
#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::HasSubstr;
using Version = std::int64_t();
using Plus = std::int64_t(std::int64_t);

class Update : public ::testing::Test {
 protected:
  Plugin version(int number) {
    return controller_.load(plugin_path("version" + std::to_string(number)));
  }
  Service start(Options options) {
    options.restart = restart_at_once();
    return version(1).actor("Versioned").options(options).as_service(1'000);
  }
  static void expect_version(const Service& service, std::int64_t number) {
    for (const auto& answer : value_of(service.endpoint<Version>("version").fanout()))
      EXPECT_EQ(answer.value(), number);
    EXPECT_EQ(value_of(service.endpoint<Plus>("plus").route(1)), 1'001) << "arguments are kept";
  }

  Controller controller_{quiet()};
};

class UpdateOf : public Update, public ::testing::WithParamInterface<Options> {};
INSTANTIATE_TEST_SUITE_P(Services, UpdateOf,
                         ::testing::Values(Options{}, Options{.num_replicas = 3},
                                           Options{.procs = 2, .num_replicas = 2},
                                           Options{.num_replicas = 2, .spares = 1}));

TEST_P(UpdateOf, FailsNoRequest) {
  const Service service = start(GetParam());
  expect_version(service, 1);
  std::atomic<bool> done{false};
  std::vector<std::thread> clients;
  std::atomic<int> wrong{0};
  for (int client = 0; client < 2; ++client) {
    clients.emplace_back([&] {
      const auto plus = service.endpoint<Plus>("plus");
      for (std::int64_t i = 0; !done; ++i) {
        const auto answer = await(plus.route(i));
        if (!answer.has_value() || answer.value() != 1'000 + i) ++wrong;
      }
    });
  }
  service.update(version(2));
  done = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
  expect_version(service, 2);
  kill_and_wait(pids_of(service).at(0));
  ASSERT_TRUE(wait_healthy(service));
  expect_version(service, 2);
}

class BrokenUpdate : public Update, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Versions, BrokenUpdate, ::testing::Values(3, 4));

TEST_P(BrokenUpdate, IsRolledBack) {
  for (const int spares : {0, 1}) {
    const Service service = start({.num_replicas = 2, .spares = spares});
    const Plugin broken = version(GetParam());
    const std::string text = message_of<PluginError>([&] { service.update(broken); });
    EXPECT_THAT(text, HasSubstr("libversion" + std::to_string(GetParam())));
    EXPECT_THAT(text, HasSubstr("goes on with"));
    ASSERT_TRUE(wait_healthy(service));
    expect_version(service, 1);
    service.update(version(2));
    expect_version(service, 2);
  }
}

TEST_F(Update, ThatWouldBreakAHandleIsRefused) {
  const Service service = start({});
  const auto plus = service.endpoint<Plus>("plus");
  const std::vector<int> pids = pids_of(service);
  EXPECT_THAT(message_of<SignatureMismatch>([&] { service.update(version(5)); }),
              HasSubstr("'plus' is f64(f64) instead of i64(i64)"));
  EXPECT_THAT(message_of<SignatureMismatch>([&] { service.update(version(6)); }),
              HasSubstr("constructed from other arguments"));
  EXPECT_THAT(message_of<SignatureMismatch>([&] { service.update(version(7)); }),
              HasSubstr("its save() is f64() instead of i64()"));
  const Plugin other = controller_.load(plugin_path("counter"));
  message_of<UnknownActor>([&] { service.update(other); });
  EXPECT_EQ(pids_of(service), pids) << "nothing was touched";
  EXPECT_EQ(value_of(plus.route(2)), 1'002);
}

TEST_F(Update, MayLeaveOutWhatNobodyUses) {
  const Service service = start({});
  service.update(version(2));
  EXPECT_THAT(message_of<UnknownEndpoint>([&] { (void)service.endpoint<Version>("forgotten"); }),
              HasSubstr("start a new service"));
  Service used = start({});
  const auto forgotten = used.endpoint<Version>("forgotten");
  EXPECT_THAT(message_of<SignatureMismatch>([&] { used.update(version(2)); }),
              HasSubstr("'forgotten' is missing"));
  EXPECT_EQ(value_of(forgotten.route()), 0);
}

TEST_F(Update, OfAServiceThatIsGone) {
  Service service = start({});
  const Plugin next = version(2);
  service.shutdown();
  message_of<Stopped>([&] { service.update(next); });
}

TEST_F(Update, LeavesNothingInTheArena) {
  const Service service = start({.arena_bytes = 256 * 1024});
  for (int i = 0; i < 30; ++i) service.update(version(2 - i % 2));
  const Tensor most = service.allocate(DType::u8, {128 * 1024});
  EXPECT_EQ(most.bytes().size(), 128U * 1024);
}

// ---- the file changes while a service runs from it

/// A plugin in a file of its own, which is replaced as linkers and installers do.
class Rebuilt : public Update {
 protected:
  static constexpr RestartPolicy kOften{
      .backoff_initial = 5ms, .backoff_max = 20ms, .max_deaths = 1'000'000};

  void install(int version) const {
    namespace fs = std::filesystem;
    fs::copy_file(plugin_path("version" + std::to_string(version)), folder_.file("next.so"),
                  fs::copy_options::overwrite_existing);
    fs::rename(folder_.file("next.so"), path_);
  }
  Service serve() {
    install(1);
    return controller_.load(path_)
        .actor("Versioned")
        .options({.num_replicas = 2, .restart = kOften})
        .as_service(1'000);
  }
  /// Of the first replica, which is killed and cannot come back.
  [[nodiscard]] static bool wait_for_reason(const Service& service, const std::string& reason) {
    return wait_until([&] {
      const ReplicaStatus first = service.replicas().at(0);
      return !first.healthy && first.reason.find(reason) != std::string::npos;
    });
  }

  const TemporaryFolder folder_;
  const std::string path_ = folder_.file("plugin.so");
};

TEST_F(Rebuilt, NoLifeRunsAnotherBuildUntilTheServiceIsUpdated) {
  const Service service = serve();
  install(2);
  kill_and_wait(pids_of(service).at(0));
  ASSERT_TRUE(wait_for_reason(service, "changed on disk"));
  EXPECT_THAT(service.replicas().at(0).reason, HasSubstr("update()"));
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(value_of(service.endpoint<Version>("version").route()), 1) << "the others serve on";
  expect_version(service, 1);
  service.update(controller_.load(path_));
  ASSERT_TRUE(wait_healthy(service));
  EXPECT_EQ(service.replicas().at(0).reason, "");
  expect_version(service, 2);
  kill_and_wait(pids_of(service).at(0));
  ASSERT_TRUE(wait_healthy(service));
  expect_version(service, 2);
}

TEST_F(Rebuilt, AnIdenticalFileIsTheSameBuild) {
  const Service service = serve();
  install(1);
  kill_and_wait(pids_of(service).at(0));
  ASSERT_TRUE(wait_restarted(service, 0, 1));
  expect_version(service, 1);
  EXPECT_EQ(service.replicas().at(0).incarnation, 2U);
}

TEST_F(Rebuilt, AFileThatIsGoneIsWaitedFor) {
  const Service service = serve();
  std::filesystem::remove(path_);
  kill_and_wait(pids_of(service).at(0));
  ASSERT_TRUE(wait_for_reason(service, "does not exist"));
  install(1);
  ASSERT_TRUE(wait_healthy(service));
  expect_version(service, 1);
}

}  // namespace
}  // namespace forge::e2e
