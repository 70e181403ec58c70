// Which way the collectives of a rank with a device go, and the way of devices that are made up.
#include "gpu/device_group.h"

#include <forge/error.h>
#include <gmock/gmock.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gpu/host_backend.h"
#include "tests/gpu/group_fixture.h"
#include "tests/gpu/group_ranks.h"

namespace forge::gpu {
namespace {

using ::testing::HasSubstr;
using tests::outcome;

constexpr int kProcs = 3;

struct DeviceMemory final : detail::TensorStorage {
  DeviceMemory(std::unique_ptr<Buffer> memory, int ordinal) : buffer(std::move(memory)) {
    data = buffer->device_data();
    size = buffer->size();
    device = ordinal;
  }
  std::unique_ptr<Buffer> buffer;
};

/// A rank on a device of its own.
class Rank {
 public:
  explicit Rank(Group& shared, const HostFaults& faults = {})
      : backend(make_host_device({.faults = faults}).value()), host(shared) {}

  Tensor allocate(DType dtype, std::span<const std::int64_t> shape) const {
    auto memory = stream->allocate(detail::byte_size(dtype, shape)).value();
    return Tensor::adopt(std::make_shared<DeviceMemory>(std::move(memory), 0), dtype, shape);
  }
  template <class T>
  Tensor device(DType dtype, const std::vector<T>& values) const {
    const std::int64_t shape[] = {static_cast<std::int64_t>(values.size())};
    Tensor tensor = allocate(dtype, shape);
    BorrowedBuffer buffer(tensor.device_data<std::byte>(), tensor.byte_count());
    EXPECT_TRUE(stream->copy_in(buffer, 0, std::as_bytes(std::span(values))).ok());
    return tensor;
  }
  template <class T>
  std::vector<T> values(Tensor& tensor) const {
    std::vector<T> values(tensor.size());
    const BorrowedBuffer buffer(tensor.device_data<std::byte>(), tensor.byte_count());
    EXPECT_TRUE(stream->copy_out(std::as_writable_bytes(std::span(values)), buffer, 0).ok());
    EXPECT_TRUE(stream->synchronize().ok());
    return values;
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream = backend->make_stream().value();
  Group& host;
  DeviceGroup group{
      host, std::make_unique<StagedTransport>(host, *stream),
      [this](DType dtype, std::span<const std::int64_t> shape) { return allocate(dtype, shape); }};
};

void run(const std::function<void(Rank& rank, int number)>& body) {
  tests::Ranks(kProcs).run([&](Group& host, int number) {
    Rank rank(host);
    body(rank, number);
  });
}

/// Its message.
std::string ended_with(ErrorCode code, const Status& status) {
  EXPECT_EQ(status.code, code) << status.message;
  return status.message;
}

TEST(DeviceGroup, CarriesDeviceTensors) {
  run([](Rank& rank, int number) {
    EXPECT_EQ(rank.group.rank(), number);
    EXPECT_EQ(rank.group.procs(), kProcs);
    for (int root = 0; root < kProcs; ++root) {
      Tensor tensor = rank.device(DType::bf16, std::vector<std::uint16_t>(7, number + 1));
      rank.group.broadcast(tensor, root);
      EXPECT_EQ(rank.values<std::uint16_t>(tensor), std::vector<std::uint16_t>(7, root + 1));
    }
    Tensor sum = rank.device(DType::f32, std::vector<float>{1.0F, static_cast<float>(number)});
    rank.group.all_reduce(sum, Reduction::sum);
    EXPECT_EQ(rank.values<float>(sum), (std::vector<float>{3.0F, 3.0F}));

    const Tensor mine = rank.device(DType::i32, std::vector<std::int32_t>{number, -number});
    Tensor all = rank.group.all_gather(mine);
    EXPECT_EQ(all.device(), 0);
    EXPECT_EQ((std::vector(all.shape().begin(), all.shape().end())),
              (std::vector<std::int64_t>{kProcs, 2}));
    EXPECT_EQ(rank.values<std::int32_t>(all), (std::vector<std::int32_t>{0, 0, 1, -1, 2, -2}));
  });
}

TEST(DeviceGroup, CarriesHostMemoryAsEver) {
  run([](Rank& rank, int number) {
    rank.group.barrier();
    Tensor sum(DType::i64, {2});
    sum.span<std::int64_t>()[1] = number;
    rank.group.all_reduce(sum, Reduction::sum);
    EXPECT_EQ(sum.span<std::int64_t>()[1], 3);
    rank.group.broadcast(sum, 1);
    const Tensor all = rank.group.all_gather(sum);
    EXPECT_EQ(all.device(), -1);
    EXPECT_EQ(all.size(), 2U * kProcs);
    std::vector<std::int32_t> values = {number};
    rank.group.all_reduce(std::span(values), Reduction::max);
    EXPECT_EQ(values[0], kProcs - 1);
    rank.group.broadcast(std::as_writable_bytes(std::span(values)), 0);
  });
}

TEST(DeviceGroup, TellsRanksThatOneOfThemIsOnTheHost) {
  run([](Rank& rank, int number) {
    Tensor host(DType::f32, {4});
    Tensor device = rank.device(DType::f32, std::vector<float>(4));
    const std::string message = ended_with(
        ErrorCode::invalid_argument,
        outcome([&] { rank.group.all_reduce(number == 1 ? host : device, Reduction::sum); }));
    EXPECT_THAT(message, HasSubstr("16 bytes of f32 in device memory"));
    rank.group.barrier();  // and goes on
  });
}

TEST(DeviceGroup, ACopyThatFailsInOneRankIsHeardOfInAll) {
  tests::Ranks(kProcs).run([](Group& host, int number) {
    Rank rank(host, {.sticky_after = number == 1 ? 1U : 0U});
    Tensor sum = rank.allocate(DType::f32, std::vector<std::int64_t>{4});
    const std::string message = ended_with(
        ErrorCode::unavailable, outcome([&] { rank.group.all_reduce(sum, Reduction::sum); }));
    // Whoever hears of it gives up, too: the third may hear of either.
    EXPECT_THAT(message, HasSubstr(number == 1 ? "illegal address" : "has given up"));
  });
}

TEST(DeviceGroup, RefusesWrongArgumentsWithoutLettingOthersWait) {
  run([](Rank& rank, int number) {
    Tensor frozen = rank.device(DType::f32, std::vector<float>(4, static_cast<float>(number)));
    frozen.storage()->frozen = true;
    ended_with(ErrorCode::invalid_argument,
               outcome([&] { rank.group.all_reduce(frozen, Reduction::sum); }));
    Tensor mine = rank.device(DType::f32, std::vector<float>(4));
    rank.group.broadcast(number == 2 ? frozen : mine, 2);  // a root is only read
    EXPECT_EQ(rank.values<float>(mine), std::vector<float>(4, number == 2 ? 0.0F : 2.0F));
    ended_with(ErrorCode::invalid_argument,
               outcome([&] { rank.group.broadcast(number == 0 ? frozen : mine, 2); }));
    const std::vector<std::int64_t> deep(Tensor::kMaxDims, 1);
    ended_with(ErrorCode::invalid_argument,
               outcome([&] { (void)rank.group.all_gather(rank.allocate(DType::u8, deep)); }));
    Tensor halves = rank.device(DType::f16, std::vector<std::uint16_t>(4));
    ended_with(ErrorCode::not_supported,
               outcome([&] { rank.group.all_reduce(halves, Reduction::sum); }));
    rank.group.barrier();
  });
}

TEST(DeviceGroup, SaysThatTheResultHasNoRoom) {
  tests::Ranks(1).run([](Group& host, int) {
    const auto backend = make_host_device({}).value();
    const auto stream = backend->make_stream().value();
    const Rank rank(host);
    DeviceGroup full(host, std::make_unique<StagedTransport>(host, *stream),
                     [](DType, std::span<const std::int64_t>) -> Tensor {
                       throw Unavailable("device memory: no room");
                     });
    const Tensor mine = rank.device(DType::f32, std::vector<float>(4));
    const std::string message =
        ended_with(ErrorCode::unavailable, outcome([&] { (void)full.all_gather(mine); }));
    EXPECT_THAT(message, HasSubstr("no room"));
  });
}

}  // namespace
}  // namespace forge::gpu
