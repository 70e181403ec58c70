#include "gpu/cuda_error.h"

#include <gmock/gmock.h>

#include <set>
#include <string>
#include <vector>

namespace forge::gpu {
namespace {

using ::testing::HasSubstr;

TEST(CudaError, KnowsWhichErrorsEndTheProcess) {
  const std::set<int> fatal{226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911};
  for (int error = 0; error < 1100; ++error) {
    EXPECT_EQ(ends_the_process(error), fatal.contains(error)) << error;
  }
}

TEST(CudaError, SaysWhatToDo) {
  struct Case {
    int error;
    ErrorCode code;
    const char* remedy;
  };
  for (const Case& c : std::vector<Case>{
           {2, ErrorCode::unavailable, "device memory"},
           {34, ErrorCode::not_supported, "LD_LIBRARY_PATH"},
           {46, ErrorCode::unavailable, "busy"},
           {100, ErrorCode::unavailable, "CUDA_VISIBLE_DEVICES"},
           {101, ErrorCode::unavailable, "CUDA_VISIBLE_DEVICES"},
           {209, ErrorCode::not_supported, "sm_80"},
           {222, ErrorCode::not_supported, "driver"},
           {700, ErrorCode::unavailable, "process must end"},
           {712, ErrorCode::invalid_argument, "pinned once"},
           {802, ErrorCode::unavailable, "fabricmanager"},
           {803, ErrorCode::not_supported, "versions"},
           {810, ErrorCode::unavailable, "process must end"},  // not among 805 to 809
           {900, ErrorCode::invalid_argument, "capture"},
           {999, ErrorCode::unavailable, "Xid"},
       }) {
    const Status status = cuda_status(c.error, "device GPU-1, copying", "some text");
    EXPECT_EQ(status.code, c.code) << c.error;
    EXPECT_THAT(status.message, HasSubstr(c.remedy));
    EXPECT_THAT(status.message, HasSubstr("device GPU-1, copying: some text"));
    EXPECT_THAT(status.message, HasSubstr(std::to_string(c.error)));
  }
  EXPECT_TRUE(cuda_status(0, "x", "no error").ok());
}

TEST(CudaError, TellsAnOldDriverFromNone) {
  const Status none = driver_status(0, 13000, "device GPU-1");
  EXPECT_EQ(none.code, ErrorCode::not_supported);
  EXPECT_THAT(none.message, HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(none.message, HasSubstr("CUDA 13.0"));
  const Status old = driver_status(12090, 13000, "device GPU-1");
  EXPECT_EQ(old.code, ErrorCode::not_supported);
  EXPECT_THAT(old.message, HasSubstr("it has CUDA 12.9"));
}

}  // namespace
}  // namespace forge::gpu
