// Workers with a device, as processes: calls under way when a worker is killed, sessions, and a
// device that is lost. This program is its own worker: where a service asks for it over a device
// that does its work late, else over the one that the host poses as.
#include <forge/forge.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "gpu/backend_loader.h"
#include "replicas/process.h"
#include "replicas/worker.h"
#include "tests/e2e/fake_devices.h"
#include "tests/e2e/fixture.h"
#include "tests/gpu/late_device.h"
#include "tests/random.h"
#include "tests/replicas/device_actor.h"

namespace {

/// On a device that the host poses as, where work is done as soon as it is put in.
class Posing : public forge::ForgeActor {
 public:
  std::vector<std::int64_t> where(const forge::Tensor& in) {
    return {forge::context().device(), in.device()};
  }
  forge::Tensor twice(const forge::Tensor& in) {
    forge::Tensor out = forge::context().allocate_device(in.dtype(), in.shape());
    const auto* from = in.device_data<std::int64_t>();
    auto* to = out.device_data<std::int64_t>();
    for (std::size_t i = 0; i < in.size(); ++i) to[i] = 2 * from[i];
    return out;
  }
};

}  // namespace

FORGE_PLUGIN(m) {
  forge::tests::register_device(m);
  m.actor<Posing>("Posing")
      .endpoint("where", &Posing::where)
      .service_endpoint("twice", &Posing::twice, {.idempotent = true});
}

namespace forge::e2e {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Values = std::vector<std::int64_t>;

Tensor ramp(std::int64_t first, std::int64_t count) {
  Tensor tensor(DType::i64, {count});
  const auto values = tensor.span<std::int64_t>();
  std::iota(values.begin(), values.end(), first);
  return tensor;
}
bool is_twice(const Tensor& tensor, std::int64_t first, std::int64_t count) {
  const auto values = tensor.span<const std::int64_t>();
  if (static_cast<std::int64_t>(values.size()) != count) return false;
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[static_cast<std::size_t>(i)] != 2 * (first + i)) return false;
  }
  return true;
}

ControllerOptions with_self() {
  ControllerOptions options = quiet();
  options.worker_path = "/proc/self/exe";
  return options;
}

constexpr const char* kLate = "FORGE_TEST_LATE";

class DeviceProcess : public ::testing::Test {
 protected:
  /// Over the device that does its work late.
  Service serve_late(Options options) const {
    options.with_gpus = true;
    options.restart = restart_at_once();
    options.env[kLate] = "1";
    return plugin.actor("Device").options(std::move(options)).as_service();
  }

  FakeDevices devices{{0, 0, 0}};
  Controller controller{with_self()};
  Plugin plugin = controller.self();
};

TEST_F(DeviceProcess, LosesNothingWhenWorkersDieWithCallsUnderWay) {
  const Service service = serve_late({.num_replicas = 2,
                                      .replica_max_concurrent_requests = 4,
                                      .endpoints = {{"twice", {.idempotent = true}}}});
  const auto twice = service.endpoint<Tensor(Tensor)>("twice");
  auto random = tests::seeded();
  std::deque<std::pair<std::int64_t, Future<Tensor>>> sent;
  int kills = 0;
  for (std::int64_t i = 0; i < 1500; ++i) {
    const std::int64_t count = 1 + i % 200;
    sent.emplace_back(i, twice.route(ramp(i, count)));
    if (i % 100 == 50) {
      const std::vector<int> pids = pids_of(service);
      if (!pids.empty())
        kills += ::kill(pids[tests::below(random, pids.size())], SIGKILL) == 0 ? 1 : 0;
    }
    if (sent.size() < 24) continue;
    auto [first, future] = std::move(sent.front());
    sent.pop_front();
    EXPECT_TRUE(is_twice(await(std::move(future)).value(), first, 1 + first % 200)) << first;
  }
  for (auto& [first, future] : sent)
    EXPECT_TRUE(is_twice(await(std::move(future)).value(), first, 1 + first % 200)) << first;
  EXPECT_GE(kills, 5);
}

TEST_F(DeviceProcess, AnswersOrLosesEachCallThatMayRunOnlyOnce) {
  const Service service = serve_late({.num_replicas = 2});
  const auto sums = service.endpoint<Tensor(Tensor)>("sums");
  int answered = 0;
  int lost = 0;
  for (int round = 0; round < 10; ++round) {
    std::vector<Future<Tensor>> sent;
    for (std::int64_t i = 0; i < 64; ++i) sent.push_back(sums.route(ramp(i, 4)));
    kill_and_wait(pids_of(service).at(static_cast<std::size_t>(round % 2)));
    for (std::int64_t i = 0; i < 64; ++i) {
      const Result<Tensor> result = await(std::move(sent[static_cast<std::size_t>(i)]));
      if (result) {
        ++answered;
        EXPECT_THAT(result->span<const std::int64_t>(), ElementsAre(4 * i + 6));
      } else {
        ++lost;
        EXPECT_EQ(result.error().error_code(), ErrorCode::worker_lost) << result.error().what();
      }
    }
    ASSERT_TRUE(wait_healthy(service));
  }
  EXPECT_EQ(answered + lost, 640);
  EXPECT_GT(answered, 0);
}

TEST_F(DeviceProcess, KeepsTheOrderOfASession) {
  const Service service = serve_late({.num_replicas = 2});
  const auto kept = service.endpoint<std::int64_t()>("kept_sum");
  const auto keep = service.endpoint<void(Tensor)>("keep");
  const Session session = service.session();
  std::vector<Future<std::int64_t>> sums;
  std::vector<Future<void>> kept_all;
  for (std::int64_t i = 0; i < 50; ++i) {
    kept_all.push_back(keep.route(ramp(i, 1)));
    sums.push_back(kept.route());
  }
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < 50; ++i) {
    total += i;
    EXPECT_EQ(await(std::move(sums[static_cast<std::size_t>(i)])).value(), total);
  }
  for (auto& future : kept_all) await(std::move(future)).value();
}

// ---- on the device that the host poses as

class PosingProcess : public DeviceProcess {
 protected:
  Service serve(const std::string& faults = "") { return serve(controller, faults); }
  static Service serve(Controller& of, const std::string& faults) {
    return of.self()
        .actor("Posing")
        .options({.with_gpus = true,
                  .restart = restart_at_once(),
                  .env = {{gpu::kDeviceFaultVariable, faults}}})
        .as_service();
  }
};

TEST_F(PosingProcess, HasDeviceZero) {
  const Service service = serve();
  EXPECT_THAT(service.endpoint<Values(Tensor)>("where").route(ramp(0, 3)).get(), ElementsAre(0, 0));
  EXPECT_TRUE(is_twice(service.endpoint<Tensor(Tensor)>("twice").route(ramp(5, 99)).get(), 5, 99));
}

TEST_F(PosingProcess, ShowsHowMuchDeviceMemoryItUses) {
  const Service service = serve();
  constexpr std::int64_t kCount = 100'000;
  const auto seen = [&] { return service.get_metrics_summary().replicas.at(0).devices.at(0); };
  EXPECT_EQ(seen().uuid, FakeDevices::uuid(0));
  EXPECT_GT(seen().memory_total, 0u);
  service.endpoint<Tensor(Tensor)>("twice").route(ramp(0, kCount)).get();
  // It says so before it goes to sleep, and keeps what the call needed for the next one.
  EXPECT_TRUE(wait_until(
      [&] { return seen().memory_used + seen().memory_pooled >= kCount * sizeof(std::int64_t); }));
}

TEST_F(PosingProcess, EndsAtOnceWhenItsDeviceIsLostAndIsReplaced) {
  const std::filesystem::path once =
      std::filesystem::temp_directory_path() / ("forge-lost-" + std::to_string(::getpid()));
  std::filesystem::remove(once);
  ControllerOptions options = with_self();
  std::mutex mutex;
  std::string log;
  options.log_level = LogLevel::info;
  options.on_log = [&](LogLevel, std::string_view line) {
    const std::lock_guard lock(mutex);
    (log += line) += '\n';
  };
  {
    Controller logging(options);
    const Service service = serve(logging, "sticky_after=41,once=" + once.string());
    const auto twice = service.endpoint<Tensor(Tensor)>("twice");
    std::vector<Future<Tensor>> sent;
    for (std::int64_t i = 0; i < 100; ++i) sent.push_back(twice.route(ramp(i, 8)));
    for (std::int64_t i = 0; i < 100; ++i)
      EXPECT_TRUE(is_twice(await(std::move(sent[static_cast<std::size_t>(i)])).value(), i, 8));
    EXPECT_GT(service.replicas().at(0).incarnation, 1u);
  }
  const std::lock_guard lock(mutex);
  EXPECT_THAT(log, HasSubstr(std::to_string(replicas::kDeviceLostStatus)));
  std::filesystem::remove(once);
}

TEST_F(PosingProcess, SaysWhyItsDeviceCannotBeUsed) {
  try {
    (void)serve("busy");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("GPU-fake-0 is busy"));
  }
}

TEST_F(PosingProcess, FailsACallThatFindsNoDeviceMemory) {
  const Service service = serve("no_memory");
  const auto twice = service.endpoint<Tensor(Tensor)>("twice");
  EXPECT_THROW(twice.route(ramp(0, 8)).get(), Unavailable);
  EXPECT_THROW(twice.route(ramp(0, 8)).get(), Unavailable) << "and the worker lives";
}

/// forge-worker's way into its loop, but over a device of the tests.
int run_late_worker(char** argv) {
  namespace shm = forge::shm;
  if (!replicas::die_with_parent(static_cast<pid_t>(std::atol(argv[2]))).ok()) return 2;
  tests::LateDevice device{.looks_per_step = 4};
  auto requests =
      shm::Segment::attach(shm::FileDescriptor(replicas::kRequestFd), shm::Access::read_only);
  auto responses =
      shm::Segment::attach(shm::FileDescriptor(replicas::kResponseFd), shm::Access::read_write);
  auto arena =
      shm::Segment::attach(shm::FileDescriptor(replicas::kArenaFd), shm::Access::read_only);
  return replicas::serve(std::move(requests).value(), std::move(responses).value(),
                         std::move(arena).value(), {},
                         std::make_unique<tests::LateBackend>(device));
}

}  // namespace
}  // namespace forge::e2e

int main(int argc, char** argv) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): no thread yet
  const bool late = std::getenv(forge::e2e::kLate) != nullptr;
  if (forge::replicas::wants_worker(argc, argv) && late) return forge::e2e::run_late_worker(argv);
  forge::init(argc, argv);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
