// The CUDA backend over a runtime that is not CUDA's: what every backend must do, and what goes wrong
// on devices only. What the runtime itself does is left to machines with a device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu/cuda/backend.h"
#include "tests/gpu/backend_fixture.h"
#include "tests/gpu/fake_cuda.h"

namespace forge::gpu {
namespace {

using fake_cuda::kUuid;
using fake_cuda::Settings;
using ::testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Fake, AnyBackend,
                         ::testing::Values(Kind{"cuda",
                                                [] {
                                                  fake_cuda::reset();
                                                  return cuda::make_backend(kUuid).value();
                                                }}),
                         [](const auto& test) { return test.param.name; });

/// After every test, the runtime must be as it was.
class FakeRuntime : public ::testing::EmptyTestEventListener {
  void OnTestEnd(const ::testing::TestInfo&) override {
    EXPECT_EQ(fake_cuda::broken_rules(), "");
    EXPECT_TRUE(fake_cuda::lost() || fake_cuda::alive().empty()) << fake_cuda::alive();
    fake_cuda::reset();
  }
};
const bool kListening = [] {
  ::testing::UnitTest::GetInstance()->listeners().Append(new FakeRuntime);
  return true;
}();

Status refusal(const Settings& settings, const std::string& uuid = kUuid) {
  fake_cuda::reset(settings);
  const auto made = cuda::make_backend(uuid);
  return made ? Status{} : to_status(made.error());
}

TEST(CudaBackend, IntroducesTheDeviceThatWasAskedFor) {
  ASSERT_TRUE(kListening);
  fake_cuda::reset({.devices = 3});
  const std::string second = "GPU-01020304-0506-0708-090a-0b0c0d0e0f10";
  const auto backend = cuda::make_backend(second).value();
  EXPECT_EQ(backend->device().ordinal, 1);
  EXPECT_EQ(backend->device().uuid, second);
  EXPECT_EQ(backend->device().major, 9);
  EXPECT_EQ(backend->device().memory, std::size_t{256} << 20);
  EXPECT_TRUE(backend->device().pins_read_only);
}

TEST(CudaBackend, SaysWhyItCannotHaveTheDevice) {
  struct Case {
    Settings settings;
    ErrorCode code;
    const char* remedy;
  };
  for (const Case& c : std::vector<Case>{
           {{.driver = 0}, ErrorCode::not_supported, "no NVIDIA driver"},
           {{.driver = 11040}, ErrorCode::not_supported, "it has CUDA 11.4"},
           {{.devices = 0}, ErrorCode::unavailable, "CUDA_VISIBLE_DEVICES"},
           {{.major = 7}, ErrorCode::not_supported, "too old"},
           {{.pools = false}, ErrorCode::not_supported, "memory pools"},
           {{.has_kernels = false}, ErrorCode::not_supported, "sm_80"},
           {{.fails_at = 3, .error = cudaErrorDevicesUnavailable}, ErrorCode::unavailable, "busy"},
           {{.fails_at = 3, .error = cudaErrorMemoryAllocation}, ErrorCode::unavailable, "memory"},
       }) {
    const Status status = refusal(c.settings);
    EXPECT_EQ(status.code, c.code) << status.message;
    EXPECT_THAT(status.message, HasSubstr(c.remedy));
    EXPECT_THAT(status.message, HasSubstr(kUuid));
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << c.remedy;
  }
  const Status other = refusal({}, "GPU-ffffffff-ffff-ffff-ffff-ffffffffffff");
  EXPECT_EQ(other.code, ErrorCode::unavailable);
  EXPECT_THAT(other.message, HasSubstr(std::string("it sees ") + kUuid));
}

TEST(CudaBackend, BelievesInReadOnlyPinsOnlyWhenItHasSeenOne) {
  for (const auto& [says, does] : {std::pair(true, true), {true, false}, {false, true}}) {
    fake_cuda::reset({.read_only = says, .takes_read_only = does});
    const auto backend = cuda::make_backend(kUuid).value();
    EXPECT_EQ(backend->device().pins_read_only, says && does);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    const Pages pages(1);
    EXPECT_EQ(backend->pin(pages.bytes(), {.read_only = true}).has_value(), says && does);
    EXPECT_TRUE(backend->pin(pages.bytes()));
  }
}

/// What a worker does with a device, from its start to its end. The first error is returned.
Status use_everything() {
  const Pages pages(4);
  auto backend = cuda::make_backend(kUuid);
  if (!backend) return to_status(backend.error());
  const auto pinned = (*backend)->pin(pages.bytes());
  if (!pinned) return to_status(pinned.error());
  auto stream = (*backend)->make_stream();
  if (!stream) return to_status(stream.error());
  const auto event = (*backend)->make_event();
  if (!event) return to_status(event.error());
  const auto buffer = (*stream)->allocate(Pages::kPage);
  if (!buffer) return to_status(buffer.error());
  const auto shared = (*backend)->allocate_shared(100);
  if (!shared) return to_status(shared.error());
  const auto handle = (*backend)->export_buffer(**shared);
  if (!handle) return to_status(handle.error());
  const auto page = pages.bytes().first(Pages::kPage);
  if (Status status = (*stream)->begin_capture(); !status.ok()) return status;
  const Status copied = (*stream)->copy_in(**buffer, 0, page);
  const auto graph = (*stream)->end_capture();
  if (!copied.ok()) return copied;
  if (!graph) return to_status(graph.error());
  if (Status status = (*stream)->launch(**graph); !status.ok()) return status;
  if (Status status = (*stream)->copy_out(page, **buffer, 0); !status.ok()) return status;
  if (Status status = (*stream)->record(**event); !status.ok()) return status;
  if (Status status = (*stream)->wait(**event); !status.ok()) return status;
  return (*stream)->synchronize();
}

TEST(CudaBackend, LeavesNothingBehindWhereverItFails) {
  fake_cuda::reset();
  ASSERT_TRUE(use_everything().ok());
  const int calls = fake_cuda::calls();
  int failures = 0;
  // Most calls between are those that measure: a few of them are enough.
  constexpr int kAll = 60;
  for (int call = 1; call <= calls; call += call < kAll || call >= calls - kAll ? 1 : 53) {
    fake_cuda::reset({.fails_at = call, .error = cudaErrorUnknown});
    failures += use_everything().ok() ? 0 : 1;
    // What could not be freed is left: at most a stream, and a buffer in it.
    const std::string left = fake_cuda::alive();
    EXPECT_LE(std::count(left.begin(), left.end(), ' '), left.starts_with("streams 1") ? 4 : 2)
        << "call " << call << ": " << left;
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "call " << call;
    EXPECT_EQ(fake_cuda::broken_rules(), "") << "call " << call;
  }
  EXPECT_GT(failures, 20);
  fake_cuda::reset();
}

TEST(CudaBackend, IsLostAfterAnErrorThatEndsTheProcess) {
  fake_cuda::reset();
  const Pages pages(1);
  const auto backend = cuda::make_backend(kUuid).value();
  const auto stream = std::move(backend->make_stream()).value();
  const auto event = std::move(backend->make_event()).value();
  const auto buffer = std::move(stream->allocate(100)).value();
  fake_cuda::fail_next(cudaErrorInvalidValue);
  EXPECT_FALSE(stream->copy_in(*buffer, 0, pages.bytes().first(10)).ok());
  EXPECT_TRUE(backend->healthy()) << "that one does not";
  fake_cuda::fail_next(cudaErrorIllegalAddress);
  EXPECT_FALSE(event->done());
  EXPECT_FALSE(backend->healthy());
  const int calls = fake_cuda::calls();
  EXPECT_THAT(stream->copy_in(*buffer, 0, pages.bytes().first(10)).message,
              HasSubstr("process must end"));
  EXPECT_FALSE(stream->synchronize().ok());
  EXPECT_FALSE(stream->allocate(1));
  EXPECT_FALSE(stream->begin_capture().ok());
  EXPECT_FALSE(event->done());
  EXPECT_FALSE(backend->make_stream());
  EXPECT_FALSE(backend->pin(pages.bytes()));
  EXPECT_FALSE(backend->allocate_shared(1));
  EXPECT_EQ(fake_cuda::calls(), calls) << "it is left alone";
}

TEST(CudaBackend, GivesKeptMemoryBackToMakeRoom) {
  fake_cuda::reset({.memory = 16 << 20});
  const auto backend = cuda::make_backend(kUuid).value();
  const auto stream = std::move(backend->make_stream()).value();
  { const auto most = stream->allocate(10 << 20).value(); }
  EXPECT_TRUE(stream->synchronize().ok());
  EXPECT_GE(backend->memory().pooled, std::size_t{10} << 20);
  EXPECT_TRUE(stream->allocate(12 << 20));
}

TEST(CudaBackend, RefusesHandlesOfMemoryThatIsGone) {
  fake_cuda::reset();
  const auto backend = cuda::make_backend(kUuid).value();
  auto shared = std::move(backend->allocate_shared(100)).value();
  IpcHandle handle = backend->export_buffer(*shared).value();
  EXPECT_TRUE(backend->import_buffer(handle));
  handle.size = (2 << 20) + 1;
  EXPECT_FALSE(backend->import_buffer(handle)) << "more than there is";
  handle.size = 100;
  shared.reset();
  const auto gone = backend->import_buffer(handle);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().error_code(), ErrorCode::unavailable);
  ++handle.process;
  EXPECT_FALSE(backend->import_buffer(handle)) << "asked of the runtime";
  EXPECT_TRUE(backend->healthy());
}

}  // namespace
}  // namespace forge::gpu
