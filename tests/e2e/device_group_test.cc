// context().group() on tensors that lie on devices. Each rank has one that the host poses as, where
// loops do what kernels do elsewhere. The actor is linked in, so that ranks can behave differently.
#include <forge/plugin.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gpu/backend_loader.h"
#include "replicas/rank_group.h"
#include "tests/e2e/fake_devices.h"
#include "tests/e2e/support.h"

namespace {

class OnDevices : public forge::ForgeActor {
 public:
  /// `folder` is where ranks leave signs for each other outside of forge.
  explicit OnDevices(std::string folder) : folder_(std::move(folder)) {}

  std::string device() const { return std::getenv("FORGE_DEVICE"); }

  forge::Tensor reduce(const forge::Tensor& in) {
    forge::Tensor sum = mine(in);
    forge::context().group().all_reduce(sum, forge::Reduction::sum);
    return sum;
  }
  forge::Tensor gather(const forge::Tensor& in) {
    return forge::context().group().all_gather(mine(in));
  }
  forge::Tensor broadcast(const forge::Tensor& in, std::int64_t root) {
    forge::Tensor all = mine(in);
    forge::context().group().broadcast(all, static_cast<int>(root));
    return all;
  }
  /// The argument itself, which is not the actor's to write.
  void reduce_argument(forge::Tensor in) {
    forge::context().group().all_reduce(in, forge::Reduction::sum);
  }
  /// Never comes back: whenever a rank dies, it is in the middle of it.
  void reduce_for_ever(const forge::Tensor& in) {
    for (;;) (void)reduce(in);
  }
  /// The last rank comes when the others have given it up.
  forge::Tensor come_late(const forge::Tensor& in) {
    const std::string sign = folder_ + "/given_up";
    if (is_last()) {
      while (!std::filesystem::exists(sign))
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return reduce(in);
    }
    try {
      return reduce(in);
    } catch (const forge::Error&) {
      std::ofstream(sign) << "x";
      throw;
    }
  }
  /// The last rank fails by itself.
  forge::Tensor fail_alone(const forge::Tensor& in) {
    if (is_last()) throw std::out_of_range("enough of this");
    return reduce(in);
  }
  /// The last rank never comes.
  forge::Tensor stay_away(const forge::Tensor& in) {
    if (is_last()) std::this_thread::sleep_for(std::chrono::hours(1));
    return reduce(in);
  }

 private:
  static bool is_last() { return forge::context().rank() == forge::context().procs() - 1; }
  /// Each element and the rank, in memory of our own.
  static forge::Tensor mine(const forge::Tensor& in) {
    forge::Tensor out = forge::context().allocate_device(in.dtype(), in.shape());
    std::transform(in.device_data<std::int64_t>(), in.device_data<std::int64_t>() + in.size(),
                   out.device_data<std::int64_t>(),
                   [](std::int64_t value) { return value + forge::context().rank(); });
    return out;
  }

  std::string folder_;
};

class MeetsInSetup : public forge::ForgeActor {
 public:
  void setup() override {
    forge::Tensor mine = forge::context().allocate_device(forge::DType::i64, {1});
    *mine.device_data<std::int64_t>() = 100 + forge::context().rank();
    all_ = forge::context().group().all_gather(mine);
  }
  forge::Tensor met() const { return all_; }

 private:
  forge::Tensor all_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<OnDevices, std::string>("OnDevices", "Ranks that talk to each other about device memory.")
      .endpoint("device", &OnDevices::device)
      .service_endpoint("reduce", &OnDevices::reduce, {.idempotent = true})
      .endpoint("gather", &OnDevices::gather)
      .endpoint("broadcast", &OnDevices::broadcast)
      .endpoint("reduce_argument", &OnDevices::reduce_argument)
      .endpoint("reduce_for_ever", &OnDevices::reduce_for_ever)
      .endpoint("come_late", &OnDevices::come_late)
      .endpoint("fail_alone", &OnDevices::fail_alone)
      .service_endpoint("stay_away", &OnDevices::stay_away,
                        {.exec_timeout = std::chrono::milliseconds(300)});
  m.actor<MeetsInSetup>("MeetsInSetup").endpoint("met", &MeetsInSetup::met);
}

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int kProcs = 2;

Tensor ramp(std::int64_t count) {
  Tensor tensor(DType::i64, {count});
  const auto values = tensor.span<std::int64_t>();
  std::iota(values.begin(), values.end(), 0);
  return tensor;
}

class DeviceGroups : public ::testing::Test {
 protected:
  static Options two_ranks(std::map<std::string, std::string> env = {}) {
    return {.procs = kProcs,
            .with_gpus = true,
            .return_first_rank_result = false,
            .restart = restart_at_once(),
            .env = std::move(env)};
  }
  Service start(std::map<std::string, std::string> env = {}) {
    return actors_.actor("OnDevices")
        .options(two_ranks(std::move(env)))
        .as_service(folder_.file(""));
  }
  template <class T, class... Args>
  static std::vector<T> of_all(const Service& service, const char* endpoint, const Args&... args) {
    const auto answers = value_of(service.endpoint<ValueMesh<T>(Args...)>(endpoint).route(args...));
    std::vector<T> result;
    for (const auto& [rank, answer] : answers) result.push_back(answer);
    EXPECT_THAT(result, SizeIs(kProcs));
    return result;
  }
  /// All ranks can still sum up.
  static void expect_sums(const Service& service, std::int64_t count = 5) {
    for (const Tensor& sum : of_all<Tensor>(service, "reduce", ramp(count))) {
      for (std::int64_t i = 0; const std::int64_t value : sum.span<std::int64_t>())
        ASSERT_EQ(value, kProcs * i++ + kProcs * (kProcs - 1) / 2);
    }
  }

  FakeDevices devices_{{0, 0, 0}};
  TemporaryFolder folder_;
  Controller controller_{quiet()};
  Plugin actors_ = controller_.self();
};

TEST_F(DeviceGroups, RanksMeetInSetup) {
  const Service service = actors_.actor("MeetsInSetup").options(two_ranks()).as_service();
  for (const Tensor& all : of_all<Tensor>(service, "met"))
    EXPECT_THAT(all.span<std::int64_t>(), ElementsAre(100, 101));
}

TEST_F(DeviceGroups, RanksMeetInCalls) {
  const Service service = start();
  EXPECT_THAT(of_all<std::string>(service, "device"), ElementsAre("GPU-fake-0", "GPU-fake-1"));
  for (const std::int64_t count : {1, 1000, 200'000}) expect_sums(service, count);

  for (const Tensor& all : of_all<Tensor>(service, "gather", ramp(3))) {
    EXPECT_THAT(all.shape(), ElementsAre(kProcs, 3));
    EXPECT_THAT(all.span<std::int64_t>(), ElementsAre(0, 1, 2, 1, 2, 3));
  }
  for (std::int64_t root = 0; root < kProcs; ++root) {
    for (const Tensor& same : of_all<Tensor>(service, "broadcast", ramp(3), root))
      EXPECT_THAT(same.span<std::int64_t>(), ElementsAre(root, root + 1, root + 2));
  }
}

TEST_F(DeviceGroups, AnArgumentIsNotReducedInPlace) {
  const Service service = start();
  EXPECT_THAT(
      error_of<ActorError>(service.endpoint<void(Tensor)>("reduce_argument").route(ramp(3))),
      AllOf(HasSubstr("InvalidArgument"), HasSubstr("frozen")));
  expect_sums(service);
}

TEST_F(DeviceGroups, ADeathInTheMiddleReplacesAllRanksAndTheNextCallIsFine) {
  const Footprint before = Footprint::now();
  {
    const Service service = start();
    for (std::uint64_t life = 1; life <= 4; ++life) {
      auto call = service.endpoint<void(Tensor)>("reduce_for_ever").route(ramp(100'000));
      EXPECT_FALSE(call.wait_for(20ms));
      const auto pids = pids_of(service);
      ASSERT_THAT(pids, SizeIs(kProcs));
      kill_and_wait(pids.at(life % kProcs));
      EXPECT_EQ(outcome(await(std::move(call))), "worker_lost");
      ASSERT_TRUE(wait_restarted(service, 0, life));
      for (const int pid : pids) EXPECT_TRUE(gone(pid)) << "the other rank lives on";
      EXPECT_EQ(service.replicas().at(0).incarnation, life + 1);
      EXPECT_THAT(of_all<std::string>(service, "device"), ElementsAre("GPU-fake-0", "GPU-fake-1"));
      expect_sums(service);
    }
  }
  EXPECT_TRUE(returns_to(before));
}

TEST_F(DeviceGroups, ADeviceThatIsLostInTheMiddleReplacesAllRanks) {
  // The first copy brings the argument, the second is a part of the collective.
  const Service service =
      start({{gpu::kDeviceFaultVariable,
              "sticky_after=2,device=GPU-fake-1,once=" + folder_.file("lost")}});
  const auto pids = pids_of(service);
  expect_sums(service);  // run again, for its endpoint is idempotent
  EXPECT_EQ(service.replicas().at(0).incarnation, 2u);
  for (const int pid : pids) EXPECT_TRUE(gone(pid)) << "the other rank lives on";
}

TEST_F(DeviceGroups, ARankThatComesTooLateIsAnErrorThatNamesIt) {
  const Service service = start({{replicas::kGroupTimeoutVariable, "0.5"}});
  const auto late = service.endpoint<ValueMesh<Tensor>(Tensor)>("come_late");
  EXPECT_THAT(error_of<ActorError>(late.route(ramp(3))),
              AllOf(HasSubstr("DeadlineExceeded"), HasSubstr("waited 500 ms in all_reduce"),
                    HasSubstr("in device memory"), HasSubstr("for rank 1")));
  const auto reduce = service.endpoint<ValueMesh<Tensor>(Tensor)>("reduce");
  // A machine that is busy may take longer for it than ranks wait here.
  EXPECT_TRUE(wait_until([&] { return outcome(await(reduce.route(ramp(3)))) == "ok"; }));
  EXPECT_EQ(service.replicas().at(0).incarnation, 1u) << "nobody had to die for it";
}

TEST_F(DeviceGroups, ARankThatFailsAloneIsWhoTheCallerHearsOf) {
  const Service service = start({{replicas::kGroupTimeoutVariable, "3600"}});
  const auto fail = service.endpoint<ValueMesh<Tensor>(Tensor)>("fail_alone");
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(error_of<ActorError>(fail.route(ramp(3))),
                AllOf(HasSubstr("enough of this"), HasSubstr("rank 1")));
    expect_sums(service);
  }
  EXPECT_EQ(service.replicas().at(0).incarnation, 1u);
}

TEST_F(DeviceGroups, ARankThatNeverComesIsKilledWithTheOthers) {
  const Service service = start();
  const auto away = service.endpoint<ValueMesh<Tensor>(Tensor)>("stay_away");
  EXPECT_EQ(outcome(await(away.route(ramp(3)))), "worker_lost");
  ASSERT_TRUE(wait_restarted(service, 0, 1));
  expect_sums(service);
}

}  // namespace
}  // namespace forge::e2e
