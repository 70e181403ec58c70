// What the host's backend does beyond what every backend must, and how it poses as a device.
#include "gpu/host_backend.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

namespace forge::gpu {
namespace {

using ::testing::HasSubstr;

TEST(HostBackend, GivesKeptMemoryBackToMakeRoom) {
  const auto backend = make_host_backend(1 << 20);
  const auto stream = std::move(backend->make_stream()).value();
  for (std::size_t size = 1 << 20; size >= 1024; size /= 2) {
    EXPECT_TRUE(stream->allocate(size)) << size;  // dropped at once, and kept
  }
  EXPECT_TRUE(stream->allocate(1 << 20));
  const auto half = stream->allocate(1 << 19);
  EXPECT_TRUE(half);
  EXPECT_FALSE(stream->allocate((1 << 19) + 1));
  EXPECT_EQ(backend->memory().used, std::size_t{1} << 19);
}

TEST(HostBackend, OpensNoMemoryThatIsGone) {
  const auto backend = make_host_backend();
  auto shared = std::move(backend->allocate_shared(1000)).value();
  const IpcHandle handle = backend->export_buffer(*shared).value();
  shared.reset();
  const auto refused = backend->import_buffer(handle);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error_code(), ErrorCode::unavailable);
}

TEST(HostBackend, OpensMemoryOfAnotherProcess) {
  const auto backend = make_host_backend();
  const auto stream = std::move(backend->make_stream()).value();
  const auto shared = std::move(backend->allocate_shared(1000)).value();
  const IpcHandle handle = backend->export_buffer(*shared).value();
  const std::vector<std::byte> given(1000, std::byte{7});
  const pid_t child = ::fork();
  if (child == 0) {
    const auto same = backend->import_buffer(handle);
    ::_exit(same && stream->copy_in(**same, 0, given).ok() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  std::vector<std::byte> taken(1000);
  EXPECT_TRUE(stream->copy_out(taken, *shared, 0).ok());
  EXPECT_EQ(taken, given);
}

TEST(HostBackend, HasNoDeviceAndNoNativeHandles) {
  const auto backend = make_host_backend();
  EXPECT_EQ(backend->device().ordinal, -1);
  EXPECT_TRUE(backend->device().pins_read_only);
  EXPECT_EQ(backend->make_stream().value()->native(), nullptr);
  EXPECT_EQ(backend->make_event().value()->native(), nullptr);
}

// ---- posing as a device

TEST(HostDevice, LooksLikeADevice) {
  const auto backend = make_host_device({.uuid = "GPU-fake-7", .memory = 1 << 20}).value();
  EXPECT_EQ(backend->device().ordinal, 0);
  EXPECT_EQ(backend->device().uuid, "GPU-fake-7");
  EXPECT_EQ(backend->device().memory, std::size_t{1} << 20);
  EXPECT_GT(backend->device().major, 0);
}

TEST(HostDevice, PinsReadOnlyMemoryOnlyIfItCan) {
  const std::vector<std::byte> memory(4096);
  for (const bool can : {false, true}) {
    const auto backend = make_host_device({.pins_read_only = can}).value();
    const auto pinned = backend->pin(memory, {.read_only = true});
    EXPECT_EQ(pinned.has_value(), can);
    EXPECT_EQ(backend->pin(memory).has_value(), !can) << "refused memory is not pinned";
    if (can) continue;
    EXPECT_EQ(pinned.error().error_code(), ErrorCode::not_supported);
  }
}

TEST(HostDevice, IsLostFromTheCopyOnThatItIsToldTo) {
  const auto backend = make_host_device({.faults = {.sticky_after = 3}}).value();
  const auto stream = std::move(backend->make_stream()).value();
  const auto event = std::move(backend->make_event()).value();
  const auto buffer = std::move(stream->allocate(10)).value();
  const std::vector<std::byte> given(10);
  EXPECT_TRUE(stream->copy_in(*buffer, 0, given).ok());
  EXPECT_TRUE(stream->copy_in(*buffer, 0, given).ok());
  EXPECT_TRUE(backend->healthy());
  EXPECT_THAT(stream->copy_in(*buffer, 0, given).message, HasSubstr("process must end"));
  EXPECT_FALSE(backend->healthy());
  EXPECT_FALSE(stream->copy_in(*buffer, 0, given).ok());
  EXPECT_FALSE(stream->synchronize().ok());
  EXPECT_FALSE(stream->record(*event).ok());
  EXPECT_FALSE(event->done());
  EXPECT_FALSE(stream->allocate(1));
  EXPECT_FALSE(backend->make_stream());
  EXPECT_FALSE(backend->pin(given));
}

TEST(HostDevice, FailsAsItIsTold) {
  const auto error_of = [](HostFaults faults) {
    const auto made = make_host_device({.faults = std::move(faults)});
    return made ? Status{} : to_status(made.error());
  };
  EXPECT_EQ(error_of({.busy = true}).code, ErrorCode::unavailable);
  EXPECT_THAT(error_of({.busy = true}).message, HasSubstr("busy"));
  EXPECT_EQ(error_of({.start_fails = true}).code, ErrorCode::unavailable);
  EXPECT_TRUE(error_of({.start_fails = true, .device = "GPU-fake-other"}).ok());
  const auto backend = make_host_device({.faults = {.no_memory = true}}).value();
  const auto buffer = backend->make_stream().value()->allocate(10);
  ASSERT_FALSE(buffer);
  EXPECT_EQ(buffer.error().error_code(), ErrorCode::unavailable);
  EXPECT_TRUE(backend->healthy());
}

TEST(HostDevice, FailsOnlyOnceIfItIsToldTo) {
  const std::string file = ::testing::TempDir() + "forge_fault_" + std::to_string(::getpid());
  const HostDeviceSpec spec{.faults = {.start_fails = true, .once = file}};
  EXPECT_FALSE(make_host_device(spec));
  EXPECT_TRUE(make_host_device(spec));
  ::unlink(file.c_str());
}

TEST(HostDevice, ReadsItsFaults) {
  const auto faults = parse_host_faults("sticky_after=12,busy,device=GPU-fake-1,once=/x").value();
  EXPECT_EQ(faults.sticky_after, 12u);
  EXPECT_TRUE(faults.busy);
  EXPECT_FALSE(faults.no_memory);
  EXPECT_FALSE(faults.start_fails);
  EXPECT_EQ(faults.device, "GPU-fake-1");
  EXPECT_EQ(faults.once, "/x");
  EXPECT_TRUE(parse_host_faults("start_fails,no_memory").value().no_memory);
  EXPECT_TRUE(parse_host_faults(""));
  for (const char* wrong : {"sticky_after", "sticky_after=", "sticky_after=0", "sticky_after=1x",
                            "sticky_after=-1", "busy=1", "device=", "often", "busy,,", "busy,x"}) {
    const auto refused = parse_host_faults(wrong);
    ASSERT_FALSE(refused) << wrong;
    EXPECT_EQ(refused.error().error_code(), ErrorCode::invalid_argument);
  }
}

}  // namespace
}  // namespace forge::gpu
