// Services with_gpus, on devices that the host poses as: who gets which, and what becomes of it when workers
// die. Books without processes: tests/gpu/device_book_test.cc.
#include <algorithm>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/e2e/fake_devices.h"
#include "tests/e2e/fixture.h"
#include "tests/e2e/holder.h"
#include "tests/e2e/support.h"

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;
using Strings = std::vector<std::string>;
using Variable = std::string(std::string);

class GpuPlacement : public ::testing::Test {
 protected:
  explicit GpuPlacement(const std::vector<int>& numa_nodes = {0, 0, 0}) : devices_(numa_nodes) {
    begin();
  }

  /// With a new controller, which looks at the environment anew.
  void begin() {
    placed_.reset();
    controller_.reset();
    ControllerOptions options;
    options.shutdown_grace = 500ms;
    options.on_log = [this](LogLevel, std::string_view text) {
      const std::lock_guard lock(log_mutex_);
      log_ += std::string(text) + "\n";
    };
    controller_.emplace(options);
    placed_.emplace(controller_->load(plugin_path("placement")));
  }

  Service start(Options options) const {
    options.with_gpus = true;
    return placed_->actor("Placed").options(std::move(options)).as_service(folder_.file(""));
  }
  std::string refused(const Options& options) const {
    return message_of<InsufficientGpus>([&] { start(options); });
  }
  static Strings devices_of(const std::vector<ReplicaStatus>& replicas) {
    Strings all;
    for (const ReplicaStatus& replica : replicas)
      all.insert(all.end(), replica.devices.begin(), replica.devices.end());
    return all;
  }
  static Strings variable(const Service& service, const std::string& name) {
    Strings all;
    for (auto& value : service.endpoint<Variable>("variable").fanout(name).get())
      all.push_back(value.value());
    return all;
  }
  /// From now on workers on that device do not come up, and say that it is the device.
  void break_device(std::size_t index, const std::string& how = "lost") const {
    std::ofstream(folder_.file(FakeDevices::uuid(index) + "." + how)) << "x";
  }
  void repair_device(std::size_t index) const {
    std::filesystem::remove(folder_.file(FakeDevices::uuid(index) + ".lost"));
  }
  std::string log() {
    const std::lock_guard lock(log_mutex_);
    return log_;
  }
  bool hears(const std::string& text) {
    return wait_until([&] { return log().find(text) != std::string::npos; });
  }

  FakeDevices devices_;
  TemporaryFolder folder_;
  std::mutex log_mutex_;
  std::string log_;
  std::optional<Controller> controller_;
  std::optional<Plugin> placed_;
};

TEST_F(GpuPlacement, GivesEachWorkerADeviceOfItsOwnAndShowsItNoOther) {
  const Service service = start({.num_replicas = 3});
  const Strings devices = devices_of(service.replicas());
  EXPECT_THAT(devices, UnorderedElementsAre("GPU-fake-0", "GPU-fake-1", "GPU-fake-2"));
  EXPECT_EQ(variable(service, "CUDA_VISIBLE_DEVICES"), devices);
  EXPECT_EQ(variable(service, "FORGE_DEVICE"), devices);
  EXPECT_EQ(variable(service, "CUDA_DEVICE_ORDER"), Strings(3, "PCI_BUS_ID"));
}

TEST_F(GpuPlacement, GivesEachRankOfAMeshADeviceOfItsOwn) {
  const ActorMesh mesh = placed_->actor("Placed")
                             .options({.procs = 3, .num_replicas = 7, .with_gpus = true})
                             .as_actor(folder_.file(""));
  Strings seen;
  for (const auto& [rank, value] : mesh.endpoint<Variable>("variable").call("FORGE_DEVICE").get())
    seen.push_back(value);
  EXPECT_THAT(seen, ElementsAre("GPU-fake-0", "GPU-fake-1", "GPU-fake-2"));
  EXPECT_THAT(refused({}), HasSubstr("0 can be had"));
}

TEST_F(GpuPlacement, ShowsWorkersWithoutADeviceNoneUnlessTheServiceSaysOtherwise) {
  const ScopedVariable visible("CUDA_VISIBLE_DEVICES", "2,1");
  const ScopedVariable inherited("FORGE_DEVICE", "GPU-of-our-parent");
  begin();
  const auto plain = [&](const Options& options) {
    return placed_->actor("Placed").options(options).as_service(folder_.file(""));
  };
  const Service none = plain({});
  const Service named = plain({.env = {{"CUDA_VISIBLE_DEVICES", "1"}}});
  EXPECT_THAT(none.replicas().at(0).devices, IsEmpty());
  EXPECT_EQ(variable(none, "CUDA_VISIBLE_DEVICES"), Strings{""});
  EXPECT_EQ(variable(none, "FORGE_DEVICE"), Strings{"(unset)"});
  EXPECT_EQ(variable(named, "CUDA_VISIBLE_DEVICES"), Strings{"1"});
}

TEST_F(GpuPlacement, RefusesVariablesThatWouldUndoIt) {
  for (const char* name : {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "FORGE_DEVICE"}) {
    EXPECT_THAT(message_of<InvalidArgument>([&] {
                  start({.env = {{name, "0"}}});
                }),
                AllOf(HasSubstr(name), HasSubstr("leave it out")));
    EXPECT_THAT(message_of<InvalidArgument>([&] {
                  start({.rank_env = {{0, {{name, "0"}}}}});
                }),
                HasSubstr("rank_env"));
  }
}

TEST_F(GpuPlacement, StaysWithinTheDevicesThatThisProgramMayUse) {
  const ScopedVariable visible("CUDA_VISIBLE_DEVICES", "2,GPU-fake-0");
  begin();
  const Service service = start({.num_replicas = 2});
  const std::string message = refused({});
  EXPECT_EQ(devices_of(service.replicas()), (Strings{"GPU-fake-2", "GPU-fake-0"}));
  EXPECT_THAT(message, AllOf(HasSubstr("2 devices (of 3, by CUDA_VISIBLE_DEVICES=2,GPU-fake-0)"),
                             Not(HasSubstr("GPU-fake-1"))));
}

TEST_F(GpuPlacement, SaysWhoHasWhatWhenThereAreTooFew) {
  const Footprint before = Footprint::now();
  {
    const Service service = start({.num_replicas = 2, .name = "policy"});
    EXPECT_THAT(refused({.num_replicas = 2, .name = "judge"}),
                AllOf(HasSubstr("'judge'"), HasSubstr("2 devices"), HasSubstr("policy/0.0"),
                      HasSubstr("policy/1.0"), HasSubstr("GPU-fake-2 (Fake) of nobody")));
    EXPECT_EQ(start({}).replicas().at(0).devices, Strings{"GPU-fake-2"});
  }
  EXPECT_TRUE(returns_to(before));
  EXPECT_EQ(start({.num_replicas = 3}).replicas().size(), 3U) << "all are free again";
}

/// The seals of what this process has mapped and of which the name says so.
std::vector<int> seals_of(const std::string& part) {
  std::vector<int> seals;
  for (int fd = 3; fd < 1024; ++fd) {
    std::error_code none;
    const auto path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), none);
    if (path.string().find(part) != std::string::npos) seals.push_back(::fcntl(fd, F_GET_SEALS));
  }
  return seals;
}

TEST_F(GpuPlacement, LetsOnlyWorkersWithADeviceMapTheirArenaWritable) {
  const Service with = start({.name = "with"});
  const Service without =
      placed_->actor("Placed").options({.name = "without"}).as_service(folder_.file(""));
  const auto arena = seals_of("forge:with:arena");
  ASSERT_EQ(arena.size(), 1U);
  EXPECT_EQ(arena[0] & F_SEAL_FUTURE_WRITE, 0);
  EXPECT_NE(arena[0] & F_SEAL_SHRINK, 0);
  const auto sealed = seals_of("forge:without:arena");
  ASSERT_EQ(sealed.size(), 1U);
  EXPECT_NE(sealed[0] & F_SEAL_FUTURE_WRITE, 0);
}

TEST_F(GpuPlacement, KeepsOneBookForAllControllersOfAProgram) {
  const Service service = start({.num_replicas = 2});
  Controller other{quiet()};
  const Plugin plugin = other.load(plugin_path("placement"));
  const Service third =
      plugin.actor("Placed").options({.with_gpus = true}).as_service(folder_.file(""));
  EXPECT_EQ(third.replicas().at(0).devices, Strings{"GPU-fake-2"});
}

TEST_F(GpuPlacement, SharesDevicesAmongThoseWhoAskForIt) {
  const Service service = start({.num_replicas = 5, .gpu_share = true});
  EXPECT_EQ(devices_of(service.replicas()),
            (Strings{"GPU-fake-0", "GPU-fake-1", "GPU-fake-2", "GPU-fake-0", "GPU-fake-1"}));
  EXPECT_THAT(refused({}), HasSubstr("0 can be had")) << "nobody may be alone there";
}

TEST_F(GpuPlacement, BringsAReplicaBackOnItsDevice) {
  const Service service = start({.num_replicas = 2, .restart = restart_at_once()});
  for (std::uint64_t life = 1; life < 4; ++life) {
    kill_and_wait(service.replicas().at(1).pids.at(0));
    ASSERT_TRUE(wait_restarted(service, 1, life));
    EXPECT_EQ(devices_of(service.replicas()), (Strings{"GPU-fake-0", "GPU-fake-1"}));
    EXPECT_EQ(variable(service, "FORGE_DEVICE"), (Strings{"GPU-fake-0", "GPU-fake-1"}));
  }
}

TEST_F(GpuPlacement, GivesSparesDevicesAndLetsThemBringTheirsAlong) {
  const Service service = start({.num_replicas = 1, .name = "s", .spares = 1});
  EXPECT_EQ(devices_of(service.replicas()), Strings{"GPU-fake-0"});
  EXPECT_EQ(devices_of(service.spares()), Strings{"GPU-fake-1"});
  EXPECT_THAT(refused({.num_replicas = 2}), HasSubstr("of s/spare0.0"));
  kill_and_wait(service.replicas().at(0).pids.at(0));
  ASSERT_TRUE(wait_restarted(service, 0, 1));
  EXPECT_EQ(service.counters().takeovers, 1U);
  EXPECT_EQ(devices_of(service.replicas()), Strings{"GPU-fake-1"});
  EXPECT_EQ(variable(service, "FORGE_DEVICE"), Strings{"GPU-fake-1"});
  EXPECT_EQ(devices_of(service.spares()), Strings{"GPU-fake-0"}) << "that of the dead";
  EXPECT_THAT(refused({.num_replicas = 2}), HasSubstr("GPU-fake-1 (Fake) of s/0.0"));
}

TEST_F(GpuPlacement, GivesDevicesToReplicasThatComeAndFreesThoseOfReplicasThatGo) {
  Service service = start({.num_replicas = 1, .max_replicas = 3});
  service.scale(3);
  const Strings three = devices_of(service.replicas());
  EXPECT_EQ(std::set<std::string>(three.begin(), three.end()).size(), 3U);
  service.scale(1);
  Service other = start({.num_replicas = 2});
  EXPECT_THROW(service.scale(2), Unavailable) << "they are another's now";
  EXPECT_EQ(devices_of(service.replicas()).front(), three.front());
}

TEST_F(GpuPlacement, FreesTheDevicesOfADeadMesh) {
  ActorMesh mesh =
      placed_->actor("Placed").options({.procs = 3, .with_gpus = true}).as_actor(folder_.file(""));
  kill_and_wait(mesh.pids().at(1));
  ASSERT_TRUE(wait_until([&] { return mesh.pids().empty(); }));
  EXPECT_EQ(start({.num_replicas = 3}).replicas().size(), 3U) << "while the handle lives";
}

TEST_F(GpuPlacement, QuarantinesADeviceThatFailsTwiceAtStartAndMovesItsReplica) {
  const Service service = start({.num_replicas = 2, .restart = restart_at_once()});
  break_device(0);
  kill_and_wait(service.replicas().at(0).pids.at(0));
  ASSERT_TRUE(wait_restarted(service, 0, 3)) << "two lives failed";
  EXPECT_EQ(devices_of(service.replicas()), (Strings{"GPU-fake-2", "GPU-fake-1"}));
  EXPECT_EQ(service.replicas().at(1).incarnation, 1U) << "its sibling saw nothing";
  EXPECT_TRUE(hears("device GPU-fake-0 (Fake, 0000:01:00.0) is quarantined")) << log();
  EXPECT_TRUE(hears("moves from device GPU-fake-0 to GPU-fake-2")) << log();
  EXPECT_THAT(refused({}), AllOf(HasSubstr("GPU-fake-0 (Fake) quarantined"),
                                 HasSubstr("exited with status 86")));
  repair_device(0);
  service.restart_replicas();
  EXPECT_EQ(start({}).replicas().at(0).devices, Strings{"GPU-fake-0"}) << "it may be used again";
}

TEST_F(GpuPlacement, CountsFailedStartsOfServicesToo) {
  break_device(0);
  for (int i = 0; i < 2; ++i)
    EXPECT_THAT(message_of<WorkerLost>([&] { start({}); }), HasSubstr("GPU-fake-0"));
  EXPECT_EQ(start({}).replicas().at(0).devices, Strings{"GPU-fake-1"});
}

TEST_F(GpuPlacement, BlamesNoDeviceForWhatAnActorThrows) {
  break_device(0, "throws");
  for (int i = 0; i < 3; ++i)
    EXPECT_THAT(message_of<ActorError>([&] { start({}); }), HasSubstr("no weights"));
  controller_->shutdown();  // all lines have come
  EXPECT_THAT(log(), Not(HasSubstr("quarantined")));
}

TEST_F(GpuPlacement, StaysDownWhereThereIsNoOtherDevice) {
  const Service service =
      start({.num_replicas = 3, .restart = {.backoff_initial = 1ms, .backoff_max = 1ms}});
  break_device(1);
  kill_and_wait(service.replicas().at(1).pids.at(0));
  ASSERT_TRUE(
      wait_until([&] { return service.replicas().at(1).state == ReplicaState::quarantined; }));
  EXPECT_TRUE(hears("another device for Placed/1.0")) << log();
  EXPECT_EQ(service.endpoint<int(int)>("plus_one").route(1).get(), 2) << "the rest goes on";
  repair_device(1);
  service.restart_replicas();
  EXPECT_TRUE(all_healthy(service));
  EXPECT_EQ(devices_of(service.replicas()), (Strings{"GPU-fake-0", "GPU-fake-1", "GPU-fake-2"}));
}

class GpuFault : public GpuPlacement {};

TEST_F(GpuFault, StickyError) {
  auto pin = std::make_shared<PinRouter>(0);
  const Service service =
      start({.num_replicas = 2, .routers = {{"lose_device", pin}, {"plus_one", pin}}});
  const auto plus_one = service.endpoint<int(int)>("plus_one");
  ASSERT_EQ(value_of(plus_one.route(1)), 2);
  for (std::uint64_t life = 1; life < 8; ++life) {
    auto lost = service.endpoint<void()>("lose_device").route();
    std::vector<Future<int>> behind;
    behind.reserve(50);
    for (int i = 0; i < 50; ++i) behind.push_back(plus_one.route(i));
    const auto result = await(std::move(lost));
    ASSERT_EQ(outcome(result), "worker_lost");
    EXPECT_THAT(result.error().what(), AllOf(HasSubstr("lost its device GPU-fake-0"),
                                             HasSubstr("may have been executed")));
    EXPECT_EQ(outcomes(behind), (Outcomes{{"ok", 50}}));
    ASSERT_TRUE(wait_restarted(service, 0, life)) << "at once, and however often";
    ASSERT_EQ(value_of(plus_one.route(1)), 2);
  }
  EXPECT_EQ(service.replicas().at(1).incarnation, 1U);
  EXPECT_EQ(devices_of(service.replicas()), (Strings{"GPU-fake-0", "GPU-fake-1"}));
}

TEST_F(GpuFault, StickyErrorInAnIdempotentCall) {
  const Service service = start({});
  EXPECT_EQ(value_of(service.endpoint<std::string()>("lose_device_once").route()), "GPU-fake-0");
  EXPECT_EQ(service.counters().retries, 1U);
  EXPECT_EQ(service.replicas().at(0).incarnation, 2U);
}

TEST_F(GpuFault, WorkerThatSigkillDoesNotEndKeepsItsDevice) {
  std::optional<Service> service =
      start({.num_replicas = 3,
             .endpoints = {{"sleep_for_ever", {.exec_timeout = std::chrono::milliseconds(100)}}}});
  const int pid = service->replicas().at(0).pids.at(0);
  Holder holder(pid);
  if (!holder.holds()) GTEST_SKIP() << "this system lets nobody trace a process";
  auto pinned = service->endpoint<void()>("sleep_for_ever").route();
  EXPECT_EQ(outcome(await(std::move(pinned))), "worker_lost");
  service.reset();
  EXPECT_THAT(refused({.num_replicas = 3}), HasSubstr("Placed/0.0 (killed, and does not end)"));
  EXPECT_EQ(start({.num_replicas = 2}).replicas().size(), 2U);
  holder.release();
  ASSERT_TRUE(wait_until([&] { return gone(pid); }));
  EXPECT_TRUE(wait_until([&] {
    try {
      return start({.num_replicas = 3}).replicas().size() == 3;
    } catch (const InsufficientGpus&) {
      return false;
    }
  }));
}

class GpuPlacementOnTwoNodes : public GpuPlacement {
 protected:
  GpuPlacementOnTwoNodes() : GpuPlacement({0, 1, 0, 1}) {}
};

TEST_F(GpuPlacementOnTwoNodes, PutsRanksOfAReplicaOnOneNode) {
  const Service service = start({.procs = 2, .num_replicas = 2});
  EXPECT_EQ(service.replicas().at(0).devices, (Strings{"GPU-fake-0", "GPU-fake-2"}));
  EXPECT_EQ(service.replicas().at(1).devices, (Strings{"GPU-fake-1", "GPU-fake-3"}));
}

TEST_F(GpuPlacementOnTwoNodes, KeepsWorkersToTheCoresNearTheirDevice) {
  const auto cores = [](const Service& service, std::size_t replica) {
    return service.endpoint<std::vector<int>()>("cores").fanout().get().at(replica).value();
  };
  const Service plain = placed_->actor("Placed").as_service(folder_.file(""));
  const std::vector<int> allowed = cores(plain, 0);
  const int last = allowed.back();
  devices_.set_cores(0, std::to_string(last));
  devices_.set_cores(1, "60000");  // no core that this program may use
  const Service service = start({.num_replicas = 2});
  ASSERT_EQ(devices_of(service.replicas()), (Strings{"GPU-fake-0", "GPU-fake-2"}));
  EXPECT_THAT(cores(service, 0), ElementsAre(last));
  const Service far = start({});
  ASSERT_EQ(devices_of(far.replicas()), Strings{"GPU-fake-1"});
  EXPECT_EQ(cores(far, 0), allowed);
  const Service pinned = start({.cpus = {allowed.front()}});
  EXPECT_THAT(cores(pinned, 0), ElementsAre(allowed.front())) << "the service says where";
}

}  // namespace
}  // namespace forge::e2e
