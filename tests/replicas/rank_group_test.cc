// Which group an actor gets on which device. More ranks than one are processes: tests/e2e.
#include "replicas/rank_group.h"

#include <forge/error.h>
#include <gmock/gmock.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gpu/host_backend.h"
#include "gpu/nccl_library.h"
#include "tests/gpu/fake_nccl.h"

namespace forge::replicas {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class OneRank : public ::testing::Test {
 protected:
  ~OneRank() override {
    ::unsetenv(gpu::kNcclLibraryVariable);
    ::unsetenv(kGroupTimeoutVariable);
  }

  /// The worker's, on a device of that name.
  void start(const std::string& uuid) {
    backend_ = gpu::make_host_device({.uuid = uuid}).value();
    stream_ = backend_->make_stream().value();
    shm::WorkerIdentity identity{};
    identity.procs = 1;
    group_ = std::make_unique<RankGroup>(std::vector<shm::Segment>{}, identity, 5);
    group_->use_device({.backend = *backend_,
                        .stream = *stream_,
                        .allocate =
                            [](DType dtype, std::span<const std::int64_t> shape) {
                              return on_device(dtype, {shape.begin(), shape.end()});
                            },
                        .suspect = [this](const Status& why) { suspected_ = why; },
                        .lost = [this](const Status& why) { lost_ = why; }});
  }
  static Tensor on_device(DType dtype, const std::vector<std::int64_t>& shape) {
    Tensor tensor(dtype, shape);
    tensor.storage()->device = 0;
    return tensor;
  }
  /// One call of an actor that reduces and gathers.
  Status call() {
    group_->begin(0);
    try {
      Tensor tensor = on_device(DType::f32, {4});
      tensor.device_data<float>()[2] = 7;  // a host that poses as a device can do that
      group_->get().all_reduce(tensor, Reduction::sum);
      EXPECT_EQ(tensor.device_data<float>()[2], 7);
      const Tensor all = group_->get().all_gather(tensor);
      EXPECT_EQ(all.device(), 0);
      EXPECT_EQ(all.shape()[0], 1);
      EXPECT_EQ(all.device_data<float>()[2], 7);
      return {};
    } catch (const Error& error) {
      return to_status(error);
    }
  }

  std::unique_ptr<gpu::Backend> backend_;
  std::unique_ptr<gpu::Stream> stream_;
  Status suspected_;
  Status lost_;
  std::unique_ptr<RankGroup> group_;
};

TEST_F(OneRank, UsesNcclOnADevice) {
  ASSERT_EQ(::setenv(gpu::kNcclLibraryVariable, FAKE_NCCL, 1), 0);
  ASSERT_EQ(::unsetenv("NCCL_SOCKET_IFNAME"), 0);
  start("GPU-1");
  EXPECT_STREQ(std::getenv("NCCL_SOCKET_IFNAME"), "lo");
  EXPECT_TRUE(call().ok());
  tests::FakeNccl& fake = tests::fake_nccl(FAKE_NCCL);
  EXPECT_EQ(fake.collectives, 2);
  EXPECT_EQ(fake.ids, 1);
  group_.reset();
  EXPECT_EQ(fake.living, 0);
}

TEST_F(OneRank, GoesOnInTheNextCallAfterAFailureOnTheDevice) {
  ASSERT_EQ(::setenv(gpu::kNcclLibraryVariable, FAKE_NCCL, 1), 0);
  start("GPU-1");
  ASSERT_TRUE(call().ok());
  tests::FakeNccl& fake = tests::fake_nccl(FAKE_NCCL);
  fake.collective_fails_at = 0;
  EXPECT_EQ(call().code, ErrorCode::unavailable);
  EXPECT_EQ(suspected_.code, ErrorCode::unavailable);
  EXPECT_TRUE(lost_.ok()) << "it may have been something else";
  fake.collective_fails_at = -1;
  EXPECT_TRUE(call().ok());
}

TEST_F(OneRank, LosesADeviceOnWhichNcclDoesNotEnd) {
  ASSERT_EQ(::setenv(gpu::kNcclLibraryVariable, FAKE_NCCL, 1), 0);
  ASSERT_EQ(::setenv(kGroupTimeoutVariable, "0.05", 1), 0);
  start("GPU-1");
  EXPECT_EQ(gpu::load_nccl().value().path, FAKE_NCCL);
  tests::FakeNccl& fake = tests::fake_nccl(FAKE_NCCL);
  fake.collective_hangs = true;
  fake.abort_hangs = true;
  EXPECT_EQ(call().code, ErrorCode::deadline_exceeded);
  EXPECT_EQ(lost_.code, ErrorCode::unavailable);
  EXPECT_THAT(lost_.message, HasSubstr("nothing in this process can use the device"));
  fake.collective_hangs = false;
  fake.abort_hangs = false;
  while (fake.living != 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST_F(OneRank, SaysWhatToDoWithoutNcclAndStillHasTheHost) {
  ASSERT_EQ(::setenv(gpu::kNcclLibraryVariable, "/nowhere/libnccl.so.2", 1), 0);
  start("GPU-1");
  const Status status = call();
  EXPECT_EQ(status.code, ErrorCode::unavailable);
  EXPECT_THAT(status.message, HasSubstr("FORGE_NCCL_LIBRARY"));
  Tensor tensor(DType::f32, {4});
  group_->get().all_reduce(tensor, Reduction::sum);
}

TEST_F(OneRank, WaitsAsLongAsTheEnvironmentSays) {
  for (const char* const text : {"", "soon", "60s", "0", "-1", "nan", "inf", "1e300"}) {
    ASSERT_EQ(::setenv(kGroupTimeoutVariable, text, 1), 0);
    start("GPU-fake-1");
    const Status status = call();
    EXPECT_EQ(status.code, ErrorCode::invalid_argument) << text;
    EXPECT_THAT(status.message, AllOf(HasSubstr(kGroupTimeoutVariable), HasSubstr(text)));
  }
  for (const char* const text : {"0.5", "300", "1e6"}) {
    ASSERT_EQ(::setenv(kGroupTimeoutVariable, text, 1), 0);
    start("GPU-fake-1");
    EXPECT_TRUE(call().ok()) << text;
  }
}

TEST_F(OneRank, NeedsNoNcclOnADeviceThatIsMadeUp) {
  ASSERT_EQ(::setenv(gpu::kNcclLibraryVariable, "/nowhere/libnccl.so.2", 1), 0);
  ASSERT_EQ(::unsetenv("NCCL_SOCKET_IFNAME"), 0);
  start("GPU-fake-1");
  EXPECT_EQ(std::getenv("NCCL_SOCKET_IFNAME"), nullptr);
  EXPECT_TRUE(call().ok());
}

}  // namespace
}  // namespace forge::replicas
