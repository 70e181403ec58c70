#include "gpu/device_book.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

namespace forge::gpu {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// Devices "GPU-0", "GPU-1", … on these NUMA nodes.
std::vector<Device> devices_on(const std::vector<int>& nodes) {
  std::vector<Device> devices;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    Device device;
    device.index = static_cast<int>(i);
    device.uuid = "GPU-" + std::to_string(i);
    device.model = "H100";
    device.numa_node = nodes[i];
    devices.push_back(device);
  }
  return devices;
}

SeatRequest request(const std::string& service, std::size_t replicas, std::size_t procs,
                    bool share = false) {
  SeatRequest result{service, {}, share};
  for (std::size_t replica = 0; replica < replicas; ++replica) {
    auto& workers = result.workers.emplace_back();
    for (std::size_t rank = 0; rank < procs; ++rank)
      workers.push_back(service + "/" + std::to_string(replica) + "." + std::to_string(rank));
  }
  return result;
}

std::vector<int> indices(const Seats& seats) {
  std::vector<int> result;
  result.reserve(seats.size());
  for (const Seat& seat : seats) result.push_back(seat.device.index);
  return result;
}

std::vector<std::vector<int>> indices(const std::vector<Seats>& replicas) {
  std::vector<std::vector<int>> result;
  result.reserve(replicas.size());
  for (const Seats& seats : replicas) result.push_back(indices(seats));
  return result;
}

using Places = std::vector<std::vector<int>>;

struct Layout {
  const char* what;
  std::vector<int> nodes;
  std::size_t replicas;
  std::size_t procs;
  bool share;
  Places expected;
};

class DeviceBookLayout : public ::testing::TestWithParam<Layout> {};

TEST_P(DeviceBookLayout, PutsEachWorkerWhereItBelongs) {
  const Layout& it = GetParam();
  DeviceBook book(devices_on(it.nodes));
  EXPECT_EQ(indices(book.take(request("s", it.replicas, it.procs, it.share)).value()), it.expected)
      << it.what;
}

INSTANTIATE_TEST_SUITE_P(
    All, DeviceBookLayout,
    ::testing::Values(
        Layout{"in order", {0, 0, 0}, 3, 1, false, {{0}, {1}, {2}}},
        Layout{"ranks on one node", {0, 1, 0, 1}, 2, 2, false, {{0, 2}, {1, 3}}},
        Layout{"the fullest node with room for all", {0, 0, 0, 1, 1}, 1, 2, false, {{3, 4}}},
        Layout{"so that larger ones still fit", {0, 0, 0, 1, 1}, 1, 3, false, {{0, 1, 2}}},
        Layout{"across nodes, most of them on one", {0, 1, 1, 0, 0}, 1, 4, false, {{0, 3, 4, 1}}},
        Layout{"nodes that nobody knows", {-1, -1}, 1, 2, false, {{0, 1}}},
        Layout{"shared: the least used first", {0, 0}, 5, 1, true, {{0}, {1}, {0}, {1}, {0}}},
        Layout{"shared by ranks of a replica", {0}, 1, 3, true, {{0, 0, 0}}},
        Layout{"shared: near, where equally used", {0, 1, 0, 1}, 2, 2, true, {{0, 2}, {1, 3}}}));

TEST(DeviceBook, GivesNoDeviceTwice) {
  DeviceBook book(devices_on({0, 0, 0}));
  const auto first = book.take(request("first", 1, 1)).value();
  const auto second = book.take(request("second", 2, 1)).value();
  EXPECT_EQ(indices(second), (Places{{1}, {2}}));
  EXPECT_EQ(book.take(request("third", 1, 1)).error().code(), "insufficient_gpus");
  book.leave(second[0][0].id);
  EXPECT_EQ(indices(book.take(request("third", 1, 1)).value()), (Places{{1}}));
}

TEST(DeviceBook, GivesAllOrNothing) {
  DeviceBook book(devices_on({0, 0, 0}));
  EXPECT_FALSE(book.take(request("large", 2, 2)).has_value());
  EXPECT_EQ(indices(book.take(request("small", 3, 1)).value()), (Places{{0}, {1}, {2}}))
      << "nothing is held by the one that was refused";
}

TEST(DeviceBook, KeepsSharedAndExclusiveDevicesApart) {
  DeviceBook book(devices_on({0, 0, 0}));
  const auto shared = book.take(request("shared", 1, 1, true)).value();
  EXPECT_EQ(indices(book.take(request("alone", 1, 1)).value()), (Places{{1}}));
  EXPECT_EQ(indices(book.take(request("other", 2, 1, true)).value()), (Places{{2}, {0}}));
  EXPECT_FALSE(book.take(request("late", 1, 1)).has_value()) << "no shared one";
}

TEST(DeviceBook, SharesNothingWithThoseWhoDoNot) {
  DeviceBook book(devices_on({0}));
  const auto alone = book.take(request("alone", 1, 1)).value();
  EXPECT_FALSE(book.take(request("shared", 1, 1, true)).has_value());
  book.leave(alone[0][0].id);
  EXPECT_TRUE(book.take(request("shared", 1, 1, true)).has_value());
}

TEST(DeviceBook, SaysWhatThereIsAndWhoHasItAndWhatWasWanted) {
  DeviceBook book(devices_on({0, 0, 0}), " (of 8, by CUDA_VISIBLE_DEVICES=0,1,2)");
  ASSERT_TRUE(book.take(request("policy", 2, 1)).has_value());
  const auto refused = book.take(request("judge", 2, 2));
  EXPECT_THAT(refused.error().what(),
              AllOf(HasSubstr("'judge'"), HasSubstr("needs 4 devices"),
                    HasSubstr("procs 2 times num_replicas and spares 2"),
                    HasSubstr("has 3 devices (of 8"), HasSubstr("GPU-0 (H100) of policy/0.0"),
                    HasSubstr("GPU-1 (H100) of policy/1.0"), HasSubstr("GPU-2 (H100) of nobody"),
                    HasSubstr("1 can be had"), HasSubstr("num_replicas"), HasSubstr("gpu_share")));
  DeviceBook empty({}, " (no driver)");
  EXPECT_THAT(empty.take(request("judge", 1, 1)).error().what(),
              AllOf(HasSubstr("needs 1 device ("), HasSubstr("has 0 devices (no driver);")));
  EXPECT_THAT(empty.take(request("judge", 1, 1, true)).error().what(),
              AllOf(HasSubstr("a device for its workers to share"), Not(HasSubstr("gpu_share"))));
}

TEST(DeviceBook, KeepsADeviceFromAllWhileAStuckProcessSitsThere) {
  DeviceBook book(devices_on({0, 0}));
  const auto stuck = book.take(request("stuck", 1, 1, true)).value()[0][0].id;
  book.stuck(stuck);
  EXPECT_EQ(indices(book.take(request("other", 2, 1, true)).value()), (Places{{1}, {1}}));
  book.leave(stuck);
  EXPECT_THAT(book.take(request("alone", 1, 1)).error().what(),
              HasSubstr("stuck/0.0 (killed, and does not end)"))
      << "given back, and still not free";
  book.reaped(stuck);
  EXPECT_EQ(indices(book.take(request("alone", 1, 1)).value()), (Places{{0}}));
}

TEST(DeviceBook, LetsAReplicaKeepItsSeatWhenAStuckWorkerHasLeft) {
  DeviceBook book(devices_on({0, 0}));
  auto seats = book.take(request("s", 1, 1)).value()[0];
  book.stuck(seats[0].id);
  book.reaped(seats[0].id);
  EXPECT_TRUE(book.settle(seats).ok());
  EXPECT_THAT(indices(seats), ElementsAre(0));
}

TEST(DeviceBook, QuarantinesADeviceAfterTwoFailuresInARow) {
  DeviceBook book(devices_on({0, 0}));
  auto seats = book.take(request("s", 1, 1)).value()[0];
  EXPECT_FALSE(book.failed_to_start(seats[0].id, "first"));
  book.started(seats[0].id);
  EXPECT_FALSE(book.failed_to_start(seats[0].id, "a success between them"));
  EXPECT_TRUE(book.settle(seats).ok());
  EXPECT_THAT(indices(seats), ElementsAre(0)) << "once is not enough";
  const auto quarantined = book.failed_to_start(seats[0].id, "ECC");
  ASSERT_TRUE(quarantined.has_value());
  EXPECT_EQ(quarantined->uuid, "GPU-0");
  EXPECT_FALSE(book.failed_to_start(seats[0].id, "later")) << "said once";
  EXPECT_TRUE(book.settle(seats).ok());
  EXPECT_THAT(indices(seats), ElementsAre(1)) << "moved";
  EXPECT_THAT(book.take(request("other", 1, 1)).error().what(), HasSubstr("quarantined: ECC"));
}

TEST(DeviceBook, CountsFailuresOfADeviceWhoeverHasIt) {
  DeviceBook book(devices_on({0}));
  const auto first = book.take(request("first", 1, 1)).value()[0][0].id;
  EXPECT_FALSE(book.failed_to_start(first, "x"));
  book.leave(first);
  const auto second = book.take(request("second", 1, 1)).value()[0][0].id;
  EXPECT_TRUE(book.failed_to_start(second, "x"));
}

TEST(DeviceBook, MovesOnlyWhatMustAndStaysNear) {
  DeviceBook book(devices_on({0, 1, 1, 0, 1}));
  auto seats = book.take(request("s", 1, 2)).value()[0];
  ASSERT_THAT(indices(seats), ElementsAre(0, 3));
  ASSERT_TRUE(book.take(request("other", 1, 1)).has_value());
  book.failed_to_start(seats[1].id, "x");
  book.failed_to_start(seats[1].id, "x");
  EXPECT_TRUE(book.settle(seats).ok());
  EXPECT_THAT(indices(seats), ElementsAre(0, 2)) << "no other is free on its own node";
}

TEST(DeviceBook, SaysSoWhenThereIsNoOtherDevice) {
  DeviceBook book(devices_on({0}));
  auto seats = book.take(request("s", 1, 1)).value()[0];
  book.failed_to_start(seats[0].id, "x");
  book.failed_to_start(seats[0].id, "x");
  const Status status = book.settle(seats);
  EXPECT_EQ(status.code, ErrorCode::insufficient_gpus);
  EXPECT_THAT(status.message, HasSubstr("another device for s/0.0"));
  book.pardon();
  EXPECT_TRUE(book.settle(seats).ok());
  EXPECT_THAT(indices(seats), ElementsAre(0));
  EXPECT_FALSE(book.failed_to_start(seats[0].id, "x")) << "it begins anew";
}

TEST(DeviceBook, KnowsWhoLivesThereAfterATakeover) {
  DeviceBook book(devices_on({0}));
  const auto seat = book.take(request("s", 1, 1)).value()[0][0].id;
  book.rename(seat, "s/7.0");
  EXPECT_THAT(book.take(request("other", 1, 1)).error().what(),
              AllOf(HasSubstr("of s/7.0"), Not(HasSubstr("s/0.0"))));
}

TEST(DeviceBook, IgnoresSeatsThatItDoesNotKnow) {
  DeviceBook book(devices_on({0}));
  for (const std::uint64_t seat : {0, 1, 17}) {
    book.leave(seat);
    book.stuck(seat);
    book.reaped(seat);
    book.started(seat);
    book.rename(seat, "x");
    EXPECT_FALSE(book.failed_to_start(seat, "x"));
  }
  EXPECT_TRUE(book.take(request("s", 1, 1)).has_value());
}

}  // namespace
}  // namespace forge::gpu
