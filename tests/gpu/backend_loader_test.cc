#include "gpu/backend_loader.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace forge::gpu {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kNowhere = "GPU-00000000-dead-beef-0000-000000000000";

TEST(BackendLoader, GivesTheHostToAWorkerWithoutADevice) {
  EXPECT_EQ(make_backend({}).value()->device().ordinal, -1);
}

TEST(BackendLoader, LetsTheHostPoseAsAFakeDevice) {
  const auto backend = make_backend({.device = "GPU-fake-3"}).value();
  EXPECT_EQ(backend->device().ordinal, 0);
  EXPECT_EQ(backend->device().uuid, "GPU-fake-3");
  EXPECT_FALSE(make_backend({.device = "GPU-fake-3", .faults = "busy"}));
  EXPECT_FALSE(make_backend({.device = "GPU-fake-3", .faults = "nonsense"}));
}

/// Why no backend is made for a device that does not exist.
Status refusal(const std::string& folder = "") {
  const auto refused = make_backend({.device = kNowhere, .folder = folder});
  return refused ? Status{} : to_status(refused.error());
}

TEST(BackendLoader, NeverGivesTheHostInPlaceOfADevice) {
  const Status status = refusal();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message, HasSubstr(kNowhere));
}

TEST(BackendLoader, SaysThatThereIsNoModule) {
  const Status status = refusal("/nowhere");
  EXPECT_EQ(status.code, ErrorCode::not_supported);
  EXPECT_THAT(status.message, HasSubstr("/nowhere/libforge-cuda.so"));
  EXPECT_THAT(status.message, HasSubstr("FORGE_CUDA"));
}

TEST(BackendLoader, SaysThatAFileIsNoLibrary) {
  const fs::path folder = ::testing::TempDir() + "forge_loader_" + std::to_string(::getpid());
  fs::create_directories(folder);
  std::ofstream(folder / "libforge-cuda.so") << "nothing";
  const Status status = refusal(folder);
  fs::remove_all(folder);
  EXPECT_EQ(status.code, ErrorCode::not_supported);
  EXPECT_THAT(status.message, HasSubstr("cannot be loaded"));
}

TEST(BackendLoader, RefusesModulesOfAnotherBuildBeforeItCallsThem) {
  const fs::path modules = FORGE_WRONG_MODULES;
  Status status = refusal(modules / "other_interface");
  EXPECT_EQ(status.code, ErrorCode::not_supported);
  EXPECT_THAT(status.message, HasSubstr("another build: interface 4711 of forge "));
  status = refusal(modules / "other_version");
  EXPECT_EQ(status.code, ErrorCode::not_supported);
  EXPECT_THAT(status.message, HasSubstr("of forge 0.0.0-other"));
  status = refusal(modules / "no_module");
  EXPECT_EQ(status.code, ErrorCode::not_supported);
  EXPECT_THAT(status.message, HasSubstr("no module of forge"));
}

#ifdef FORGE_CUDA_BACKEND
TEST(BackendLoader, SaysWhatIsMissingForTheDevice) {
  const Status status = refusal();
  // The module itself was loaded and has been asked.
  EXPECT_THAT(status.message, HasSubstr(std::string("device ") + kNowhere));
  if (fs::exists("/dev/nvidiactl")) {
    EXPECT_EQ(status.code, ErrorCode::unavailable);
    EXPECT_THAT(status.message, HasSubstr("CUDA_VISIBLE_DEVICES"));
  } else {
    EXPECT_EQ(status.code, ErrorCode::not_supported);
    EXPECT_THAT(status.message, HasSubstr("no NVIDIA driver"));
  }
}
#endif

}  // namespace
}  // namespace forge::gpu
