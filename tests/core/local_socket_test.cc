// Where controllers are found: whose sockets count, and what becomes of those that were left behind.
#include "core/local_socket.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/e2e/fixture.h"

namespace forge::core {
namespace {

namespace fs = std::filesystem;

class LocalSocket : public ::testing::Test {
 protected:
  LocalSocket() { ::setenv("XDG_RUNTIME_DIR", runtime_.file("").c_str(), 1); }
  ~LocalSocket() override { ::unsetenv("XDG_RUNTIME_DIR"); }

  fs::path folder() { return std::move(make_socket_folder()).value(); }
  /// Those in our folder: others of this user may run.
  std::vector<fs::path> found() {
    std::vector<fs::path> paths;
    for (const auto& one : find_sockets()) {
      if (one.path.parent_path() == folder()) paths.push_back(one.path.filename());
    }
    return paths;
  }
  static mode_t mode_of(const fs::path& path) {
    struct stat status {};
    EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777;
  }

  e2e::TemporaryFolder runtime_;
  const std::string name_ = std::to_string(::getpid()) + ".sock";
};

TEST_F(LocalSocket, LiesInAFolderOfItsUserAlone) {
  EXPECT_EQ(folder(), fs::path(runtime_.file("forge")));
  EXPECT_EQ(mode_of(folder()), 0700U);
  const auto listener = std::move(listen_in(folder())).value();
  EXPECT_EQ(listener.path.filename(), name_);
  EXPECT_EQ(mode_of(listener.path), 0600U);
  EXPECT_EQ(found(), std::vector<fs::path>{name_});
  EXPECT_TRUE(connect_to(listener.path).has_value());
}

TEST_F(LocalSocket, AvoidsAFolderThatOthersMayEnter) {
  ASSERT_EQ(::chmod(runtime_.file("").c_str(), 0755), 0);
  const auto made = make_socket_folder();
  if (made) {
    EXPECT_NE(made->parent_path(), fs::path(runtime_.file("")).parent_path());
  }
  ASSERT_EQ(::chmod(runtime_.file("").c_str(), 0700), 0);
  ASSERT_TRUE(fs::create_directory(runtime_.file("forge")));
  ASSERT_EQ(::chmod(runtime_.file("forge").c_str(), 0770), 0);
  const auto other = make_socket_folder();
  if (other) {
    EXPECT_NE(*other, fs::path(runtime_.file("forge")));
  }
  for (const auto& seen : socket_folders()) EXPECT_NE(seen, fs::path(runtime_.file("forge")));
}

TEST_F(LocalSocket, AvoidsALinkInPlaceOfItsFolder) {
  e2e::TemporaryFolder elsewhere;
  fs::create_directory_symlink(elsewhere.file(""), runtime_.file("forge"));
  const auto made = make_socket_folder();
  if (made) {
    EXPECT_NE(*made, fs::path(runtime_.file("forge")));
  }
}

TEST_F(LocalSocket, HasANumberIfTheProcessHasSeveral) {
  const auto first = std::move(listen_in(folder())).value();
  const auto second = std::move(listen_in(folder())).value();
  EXPECT_EQ(second.path.filename(), std::to_string(::getpid()) + "-2.sock");
  EXPECT_EQ(found().size(), 2U);
}

TEST_F(LocalSocket, LeftBehindMakesRoomAndIsRemoved) {
  { const auto dead = std::move(listen_in(folder())).value(); }  // closed, and its name is left
  EXPECT_TRUE(fs::exists(folder() / name_));
  EXPECT_TRUE(found().empty());
  EXPECT_FALSE(fs::exists(folder() / name_));
  { const auto dead = std::move(listen_in(folder())).value(); }
  const auto listener = std::move(listen_in(folder())).value();
  EXPECT_EQ(listener.path.filename(), name_) << "in the place of the dead one";
}

TEST_F(LocalSocket, LeftBehindByOthersIsRemovedByWhoeverMakesOne) {
  const fs::path where = folder();
  const fs::path other = where / "1-7.sock";
  const fs::path unborn = where / "1-7.sock.new";
  const fs::path young = where / "1-8.sock.new";
  for (const fs::path& path : {other, unborn, young}) {
    const auto dead = std::move(listen_in(where)).value();
    fs::rename(dead.path, path);
  }
  fs::last_write_time(unborn, fs::file_time_type::clock::now() - std::chrono::hours(1));
  const auto living = std::move(listen_in(where)).value();
  const auto second = std::move(listen_in(where)).value();
  EXPECT_FALSE(fs::exists(other));
  EXPECT_FALSE(fs::exists(unborn));
  EXPECT_TRUE(fs::exists(young)) << "somebody may be about to listen there";
  EXPECT_TRUE(fs::exists(living.path));
}

TEST_F(LocalSocket, OfADeadProcessIsStaleThoughItsChildHoldsIt) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  const shm::FileDescriptor read_end(pipe[0]);
  const fs::path where = folder();
  const pid_t owner = ::fork();
  if (owner == 0) {
    const auto listener = listen_in(where);
    const pid_t child = ::fork();
    if (child == 0) {
      ::pause();
      ::_exit(0);
    }
    (void)!::write(pipe[1], &child, sizeof(child));
    ::_exit(listener ? 0 : 1);
  }
  const shm::FileDescriptor write_end(pipe[1]);
  pid_t child = 0;
  ASSERT_EQ(::read(read_end.get(), &child, sizeof(child)), ssize_t{sizeof(child)});
  int status = 0;
  ASSERT_EQ(::waitpid(owner, &status, 0), owner);
  ASSERT_EQ(status, 0);
  const fs::path path = where / (std::to_string(owner) + ".sock");
  EXPECT_TRUE(fs::exists(path));
  EXPECT_TRUE(found().empty());
  EXPECT_FALSE(fs::exists(path));
  ::kill(child, SIGKILL);
}

TEST_F(LocalSocket, LeavesAloneWhatIsNoSocket) {
  std::ofstream(folder() / "17.sock") << "somebody's";
  std::ofstream(folder() / "notes") << "somebody's";
  (void)found();
  EXPECT_TRUE(fs::exists(folder() / "17.sock"));
  EXPECT_TRUE(fs::exists(folder() / "notes"));
  EXPECT_EQ(connect_to(folder() / "17.sock").error().code(), "unavailable");
  EXPECT_EQ(connect_to(folder() / "18.sock").error().code(), "unavailable");
}

TEST_F(LocalSocket, ThatIsTooLongANameIsAClearError) {
  const fs::path deep = folder() / std::string(100, 'x');
  ASSERT_TRUE(fs::create_directory(deep));
  const auto listener = listen_in(deep);
  ASSERT_FALSE(listener.has_value());
  EXPECT_NE(std::string(listener.error().what()).find(deep), std::string::npos);
}

}  // namespace
}  // namespace forge::core
