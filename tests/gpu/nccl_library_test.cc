#include "gpu/nccl_library.h"

#include <forge/error.h>
#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace forge::gpu {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Status failure(const Result<NcclLibrary>& result) {
  return result ? Status{} : to_status(*result.error_ptr());
}

TEST(NcclLibrary, HasAllFunctionsOfTheFileItIsGiven) {
  const Result<NcclLibrary> library = load_nccl(FAKE_NCCL);
  ASSERT_TRUE(library) << library.error().what();
  EXPECT_EQ(library->path, FAKE_NCCL);
  EXPECT_EQ(library->version, 22809);
  nccl::UniqueId id{};
  EXPECT_EQ(library->call.GetUniqueId(&id), nccl::Code::success);
}

TEST(NcclLibrary, IsTheOneTheEnvironmentNames) {
  ASSERT_EQ(::setenv(kNcclLibraryVariable, FAKE_NCCL, 1), 0);
  const Result<NcclLibrary> library = load_nccl();
  EXPECT_TRUE(library);
  ASSERT_EQ(::setenv(kNcclLibraryVariable, "/nowhere/libnccl.so.2", 1), 0);
  const Status missing = failure(load_nccl());
  ::unsetenv(kNcclLibraryVariable);
  EXPECT_EQ(missing.code, ErrorCode::unavailable);
  EXPECT_THAT(missing.message, HasSubstr("/nowhere/libnccl.so.2"));
}

TEST(NcclLibrary, SaysWhatToDoWhenThereIsNone) {
  const Status status = failure(load_nccl("/nowhere/libnccl.so.2"));
  EXPECT_EQ(status.code, ErrorCode::unavailable);
  EXPECT_THAT(status.message, AllOf(HasSubstr("cannot be loaded"), HasSubstr("install NCCL 2.18"),
                                    HasSubstr("FORGE_NCCL_LIBRARY"), HasSubstr("to_host()")));
}

TEST(NcclLibrary, IsRefusedWhenItIsNoLibrary) {
  const std::string path = ::testing::TempDir() + "no_library.so";
  std::ofstream(path) << "just text";
  const Status status = failure(load_nccl(path));
  EXPECT_EQ(status.code, ErrorCode::unavailable);
  EXPECT_THAT(status.message, HasSubstr("install NCCL"));
}

TEST(NcclLibrary, IsRefusedWhenItIsTooOld) {
  const Status status = failure(load_nccl(FAKE_NCCL_OLD));
  EXPECT_EQ(status.code, ErrorCode::not_supported);
  EXPECT_THAT(status.message,
              AllOf(HasSubstr("version 2.14.3, which is too old"), HasSubstr("install NCCL 2.18")));
}

TEST(NcclLibrary, IsRefusedWhenAFunctionIsMissing) {
  const Status status = failure(load_nccl(FAKE_NCCL_INCOMPLETE));
  EXPECT_EQ(status.code, ErrorCode::not_supported);
  EXPECT_THAT(status.message,
              AllOf(HasSubstr("no function ncclCommAbort"), HasSubstr("FORGE_NCCL_LIBRARY")));
}

TEST(NcclLibrary, TellsVersionsAsPeopleWriteThem) {
  EXPECT_EQ(nccl_version_text(22809), "2.28.9");
  EXPECT_EQ(nccl_version_text(22000), "2.20.0");
  EXPECT_EQ(nccl_version_text(2708), "2.7.8");  // before 2.9 the major number counted thousands
}

TEST(NcclSockets, UseLoopbackUnlessTheUserSaysOtherwise) {
  ::unsetenv("NCCL_SOCKET_IFNAME");
  keep_nccl_on_this_host();
  EXPECT_STREQ(std::getenv("NCCL_SOCKET_IFNAME"), "lo");
  ASSERT_EQ(::setenv("NCCL_SOCKET_IFNAME", "eth7", 1), 0);
  keep_nccl_on_this_host();
  EXPECT_STREQ(std::getenv("NCCL_SOCKET_IFNAME"), "eth7");
  ::unsetenv("NCCL_SOCKET_IFNAME");
}

}  // namespace
}  // namespace forge::gpu
