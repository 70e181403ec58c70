// Plugins that another user could change are refused, with a message that says what to do.
#include "replicas/plugin_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "replicas/build.h"
#include "replicas/plugin_loader.h"

namespace forge::replicas {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uid_t kStranger = 12345;

class PluginFile : public ::testing::Test {
 protected:
  PluginFile() {
    std::string pattern = fs::temp_directory_path() / "forge-plugin-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    top_ = fs::canonical(pattern);
    folder_ = top_ / "plugins";
    file_ = folder_ / "libtest.so";
    fs::create_directory(folder_);
    mode(folder_, 0755);
    std::ofstream(file_) << "no shared object";
    mode(file_, 0644);
  }
  ~PluginFile() override {
    std::error_code ignored;
    fs::remove_all(top_, ignored);
  }

  static void mode(const fs::path& path, mode_t mode) { ASSERT_EQ(::chmod(path.c_str(), mode), 0); }
  static bool give_away(const fs::path& path) {
    return ::lchown(path.c_str(), kStranger, static_cast<gid_t>(-1)) == 0;
  }
  static void accepted(const fs::path& path) {
    EXPECT_EQ(check_plugin_file(path).message, "") << path;
  }
  /// By the check, and by whoever loads.
  static std::string refused(const fs::path& path) {
    const Status status = check_plugin_file(path);
    EXPECT_EQ(status.code, ErrorCode::plugin_error);
    EXPECT_THAT(status.message, AllOf(HasSubstr(path.string()), HasSubstr("trust_plugins")));
    EXPECT_EQ(load_plugin(path).status.message, status.message);
    return status.message;
  }

  fs::path top_;
  fs::path folder_;
  fs::path file_;
};

TEST_F(PluginFile, IsAcceptedIfNobodyElseCanWriteIt) {
  accepted(file_);
  mode(file_, 0700);
  mode(folder_, 0700);
  accepted(file_);
  mode(top_, 0777);  // who may rename the folder is not looked at
  accepted(file_);
  EXPECT_THAT(load_plugin(file_).status.message, HasSubstr("cannot be opened"));
}

TEST_F(PluginFile, IsRefusedIfOthersMayWriteIt) {
  mode(file_, 0646);
  EXPECT_THAT(refused(file_),
              AllOf(HasSubstr("everybody"), HasSubstr("chmod go-w " + file_.string())));
  mode(file_, 0664);
  EXPECT_THAT(refused(file_), AllOf(HasSubstr("group"), HasSubstr("chmod go-w " + file_.string())));
}

TEST_F(PluginFile, IsRefusedInAFolderThatOthersMayWrite) {
  for (const mode_t bits : {0775U, 0757U}) {
    mode(folder_, bits);
    EXPECT_THAT(refused(file_), HasSubstr("chmod go-w " + folder_.string() + ","));
  }
}

TEST_F(PluginFile, IsAcceptedInAStickyFolderOfRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make one";
  mode(folder_, 01777);
  accepted(file_);
  mode(file_, 0666);
  refused(file_);
  mode(file_, 0644);
  ASSERT_TRUE(give_away(file_));
  EXPECT_THAT(refused(file_), HasSubstr("belongs to user 12345"));
}

TEST_F(PluginFile, IsRefusedIfItIsAnotherUsers) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  ASSERT_TRUE(give_away(file_));
  EXPECT_THAT(refused(file_),
              AllOf(HasSubstr("belongs to user 12345"), HasSubstr("chown " + file_.string())));
}

TEST_F(PluginFile, IsRefusedInAFolderOfAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give folders away";
  ASSERT_TRUE(give_away(folder_));
  EXPECT_THAT(refused(file_), HasSubstr("chown " + folder_.string() + ","));
  mode(folder_, 01755);  // sticky or not: its owner may do anything
  refused(file_);
}

TEST_F(PluginFile, IsJudgedByItsLinkAndByWhatThatLeadsTo) {
  const fs::path links = top_ / "links";
  const fs::path link = links / "liblink.so";
  fs::create_directory(links);
  mode(links, 0755);
  fs::create_symlink(file_, link);
  accepted(link);
  mode(links, 0757);
  EXPECT_THAT(refused(link), HasSubstr("chmod go-w " + links.string() + ","));
  mode(links, 0755);
  mode(file_, 0666);
  EXPECT_THAT(refused(link), HasSubstr("chmod go-w " + file_.string()));
  mode(file_, 0644);
  if (::geteuid() != 0) return;
  ASSERT_TRUE(give_away(link));
  EXPECT_THAT(refused(link), HasSubstr("belongs to user 12345"));
}

TEST_F(PluginFile, IsSomebodyElsesBusinessIfItIsNone) {
  accepted(top_ / "missing.so");
  accepted(folder_);
  accepted("/dev/null");
}

TEST_F(PluginFile, IsNotLookedAtWhereThatIsWished) {
  ASSERT_EQ(::setenv(kTrustPlugins, "1", 1), 0);
  EXPECT_TRUE(environment_trusts_plugins());
  ASSERT_EQ(::unsetenv(kTrustPlugins), 0);
  EXPECT_FALSE(environment_trusts_plugins());
}

// ---- is it still the same?

class PluginBuild : public PluginFile {
 protected:
  void write(const std::string& text) const {
    std::ofstream(top_ / "next") << text;
    fs::rename(top_ / "next", file_);
  }
  std::string build_ = find_build(file_);
  std::string complaint() const { return check_build(file_, build_).message; }
};

TEST_F(PluginBuild, IsTheSameAsLongAsItsContentsAre) {
  EXPECT_EQ(complaint(), "");
  fs::last_write_time(file_, fs::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_EQ(complaint(), "");
  write("no shared object");
  EXPECT_EQ(complaint(), "") << "an identical reinstall";
}

TEST_F(PluginBuild, IsAnotherIfItsContentsAre) {
  for (const char* text : {"no shared objecT", "No shared object", "no shared object ", ""}) {
    write(text);
    EXPECT_THAT(complaint(), AllOf(HasSubstr("changed on disk"), HasSubstr(file_.string())))
        << text;
  }
  write("no shared object");
  EXPECT_EQ(complaint(), "") << "it was put back";
}

TEST_F(PluginBuild, IsForWhoeverOpensItIfItIsGone) {
  fs::remove(file_);
  EXPECT_EQ(complaint(), "");
  EXPECT_EQ(find_build(file_), "");
  EXPECT_TRUE(check_build(file_, "").ok()) << "whatever build it is";
}

TEST_F(PluginBuild, IsAnotherWithAnotherLibrary) {
  ASSERT_NE(build_.back(), '-') << "the linker gives the library an id";
  build_.back() = build_.back() == '0' ? '1' : '0';
  EXPECT_THAT(complaint(),
              AllOf(HasSubstr("libforge-serve"), HasSubstr("start the program again")));
  EXPECT_FALSE(check_build("", build_).ok()) << "actors of the program, too";
}

}  // namespace
}  // namespace forge::replicas
