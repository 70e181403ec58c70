#include "replicas/process.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <sstream>
#include <thread>

#include "tests/replicas/roles.h"
#include "tests/sanitizer.h"

namespace forge::replicas {
namespace {

using test::make_pipe;
using test::Pipe;
using test::read_all;
using test::read_line;
using test::role;
using test::shell;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Kind = ExitInfo::Kind;

std::vector<std::string> lines_with(const std::string& text, const std::string& prefix) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(prefix)) lines.push_back(line.substr(prefix.size()));
  }
  return lines;
}

/// Starts the role, gives it the pipe's write end as descriptor 3, and returns what it wrote.
std::string run_and_read(SpawnSpec spec, Pipe pipe) {
  auto child = spawn_process(spec);
  EXPECT_TRUE(child) << child.error().what();
  pipe.write = shm::FileDescriptor();
  std::string text = read_all(pipe.read.get());
  EXPECT_EQ(reap(*child), (ExitInfo{Kind::exited, 0}));
  return text;
}

/// Restores what a test changes about the whole process's signals.
class SignalState {
 public:
  SignalState() { ::sigprocmask(SIG_SETMASK, nullptr, &mask_); }
  ~SignalState() {
    ::sigprocmask(SIG_SETMASK, &mask_, nullptr);
    for (const int signal : {SIGPIPE, SIGCHLD, SIGUSR2}) ::signal(signal, SIG_DFL);
  }

 private:
  sigset_t mask_;
};

TEST(SpawnProcess, GivesArgumentsAndExactlyTheEnvironmentAskedFor) {
  Pipe pipe = make_pipe();
  auto spec = role("state", {"one", "two words", ""}, pipe.write.get());
  spec.environment = {"RANK=1", "EMPTY="};
  const std::string state = run_and_read(std::move(spec), std::move(pipe));
  EXPECT_THAT(lines_with(state, "argument "), ElementsAre("one", "two words", ""));
  EXPECT_THAT(lines_with(state, "variable "), ElementsAre("RANK=1", "EMPTY="));
}

TEST(SpawnProcess, InheritsNoDescriptorButTheMappedOnes) {
  const shm::FileDescriptor leaked(::open("/dev/zero", O_RDONLY));  // not O_CLOEXEC, on purpose
  const shm::FileDescriptor high(::fcntl(leaked.get(), F_DUPFD, 200));
  Pipe pipe = make_pipe();
  auto spec = role("state", {}, pipe.write.get());
  spec.fds.push_back({leaked.get(), 6});  // 4 and 5 stay closed
  const auto fds = lines_with(run_and_read(std::move(spec), std::move(pipe)), "fd ");
  const auto beyond_standard = std::find_if(
      fds.begin(), fds.end(), [](const std::string& line) { return std::stoi(line) > 2; });
  EXPECT_THAT(std::vector(beyond_standard, fds.end()), ElementsAre("3 pipe", "6 /dev/zero"));
  EXPECT_EQ(fds.at(0), "0 /dev/null");
}

TEST(SpawnProcess, StartsWithDefaultSignalsAndEmptyMaskInItsOwnGroup) {
  const SignalState restore;
  sigset_t all;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGUSR2, SIG_IGN);
  Pipe pipe = make_pipe();
  const auto spec = role("state", {}, pipe.write.get());
  const std::string state = run_and_read(spec, std::move(pipe));
  EXPECT_THAT(state, Not(HasSubstr("blocked")));
  EXPECT_THAT(state, Not(HasSubstr("ignored")));
  EXPECT_THAT(state, HasSubstr("leads its group"));
}

TEST(SpawnProcess, MapsDescriptorsThatTakeEachOthersNumbers) {
  // Four pipes on the numbers of the targets, in reverse order, and one on its own number.
  Pipe pipes[4] = {make_pipe(), make_pipe(), make_pipe(), make_pipe()};
  std::vector<FdMapping> fds;
  std::vector<int> numbers;
  for (const Pipe& pipe : pipes) numbers.push_back(pipe.write.get());
  for (int i = 0; i < 4; ++i)
    fds.push_back({numbers[static_cast<std::size_t>(i)], numbers[static_cast<std::size_t>(3 - i)]});
  std::string script;
  for (const FdMapping& mapping : fds) {
    // dash knows single-digit descriptors only, so /proc names them.
    script += "echo from-" + std::to_string(mapping.source) + " > /proc/self/fd/" +
              std::to_string(mapping.target) + "; ";
  }
  auto spec = shell(script);
  spec.fds = fds;
  auto child = spawn_process(spec);
  ASSERT_TRUE(child) << child.error().what();
  EXPECT_EQ(reap(*child), (ExitInfo{Kind::exited, 0}));
  for (const Pipe& pipe : pipes) {
    EXPECT_EQ(read_line(pipe.read.get()), "from-" + std::to_string(pipe.write.get()));
  }

  Pipe same = make_pipe();
  auto own = shell("echo same > /proc/self/fd/" + std::to_string(same.write.get()));
  own.fds = {{same.write.get(), same.write.get()}};
  ASSERT_EQ(reap(*spawn_process(own)), (ExitInfo{Kind::exited, 0}));
  EXPECT_EQ(read_line(same.read.get()), "same");
}

TEST(SpawnProcess, RedirectsStandardOutputWhenAsked) {
  Pipe pipe = make_pipe();
  auto spec = shell("echo out; echo err >&2; cat");
  spec.fds = {{pipe.write.get(), 1}, {pipe.write.get(), 2}};
  EXPECT_EQ(run_and_read(std::move(spec), std::move(pipe)), "out\nerr\n");
}

TEST(SpawnProcess, GivesNullForStandardOutputThatIsClosedHere) {
  const shm::FileDescriptor saved(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 100));
  ::close(STDOUT_FILENO);
  Pipe pipe = make_pipe();  // one end of it is descriptor 1 now
  const int low_end = pipe.read.get();
  const auto spec = role("state", {}, pipe.write.get());
  const std::string state = run_and_read(spec, std::move(pipe));
  ::dup2(saved.get(), STDOUT_FILENO);
  EXPECT_EQ(low_end, STDOUT_FILENO);
  EXPECT_THAT(state, HasSubstr("fd 1 /dev/null\n"));
}

TEST(SpawnProcess, LeavesTheSourcesOpenAndAsTheyWere) {
  Pipe pipe = make_pipe();
  auto spec = shell("exit 0");
  spec.fds = {{pipe.write.get(), 3}};
  const auto before = test::open_fds();
  reap(*spawn_process(spec));
  EXPECT_EQ(test::open_fds(), before);
  EXPECT_EQ(::fcntl(pipe.write.get(), F_GETFD), FD_CLOEXEC);
}

struct BadSpec {
  const char* name;
  SpawnSpec spec;
  ErrorCode code;
  const char* says;
};

TEST(SpawnProcess, NamesThePathAndTheReasonWhenItCannotStart) {
  const BadSpec cases[] = {
      {"missing", {"/nowhere/worker", {}, {}, {}}, ErrorCode::invalid_argument, "No such file"},
      {"folder", {"/tmp", {}, {}, {}}, ErrorCode::invalid_argument, "Permission denied"},
      {"no program", {"/proc/version", {}, {}, {}}, ErrorCode::invalid_argument, "Permission"},
      {"closed source", {"/bin/true", {}, {}, {{12345, 3}}}, ErrorCode::invalid_argument, "12345"},
      {"negative source", {"/bin/true", {}, {}, {{-1, 3}}}, ErrorCode::invalid_argument, "-1"},
      {"negative target", {"/bin/true", {}, {}, {{0, -2}}}, ErrorCode::invalid_argument, "-2"},
      {"target twice", {"/bin/true", {}, {}, {{0, 3}, {1, 3}}}, ErrorCode::invalid_argument, "3"},
  };
  for (const BadSpec& bad : cases) {
    SCOPED_TRACE(bad.name);
    const auto before = test::open_fds();
    const auto child = spawn_process(bad.spec);
    ASSERT_FALSE(child);
    EXPECT_EQ(child.error().error_code(), bad.code);
    EXPECT_THAT(child.error().what(), HasSubstr("'" + bad.spec.path + "'"));
    EXPECT_THAT(child.error().what(), HasSubstr(bad.says));
    EXPECT_EQ(test::open_fds(), before);
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "no child is left";
  }
}

TEST(SpawnProcess, IsUnavailableAndLeavesNoChildWithoutDescriptors) {
  if (tests::kUnderAsan)
    GTEST_SKIP() << "UBSan opens a pipe to look at an object's type; no pipe is no object to it";
  const auto before = test::open_fds();
  rlimit limit;
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit none{static_cast<rlim_t>(before.rbegin()->first + 1), limit.rlim_max};
  std::vector<shm::FileDescriptor> filler;  // holes below the limit
  ::setrlimit(RLIMIT_NOFILE, &none);
  for (int fd; (fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) filler.emplace_back(fd);
  const auto unwatchable = spawn_process(shell("exit 0"));
  const auto unmappable = spawn_process({"/bin/sh", {}, {}, {{0, 3}}});
  ::setrlimit(RLIMIT_NOFILE, &limit);
  for (const Result<Child>* child : {&unwatchable, &unmappable}) {
    ASSERT_FALSE(*child);
    EXPECT_EQ(child->error().error_code(), ErrorCode::unavailable);
    EXPECT_THAT(child->error().what(), HasSubstr("/bin/sh"));
  }
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "no child is left";
}

TEST(ProcessExit, TellsStatusAndSignal) {
  EXPECT_EQ(reap(*spawn_process(shell("exit 0"))), (ExitInfo{Kind::exited, 0}));
  EXPECT_EQ(reap(*spawn_process(shell("exit 3"))), (ExitInfo{Kind::exited, 3}));
  EXPECT_EQ(reap(*spawn_process(shell("kill -9 $$"))), (ExitInfo{Kind::signaled, SIGKILL}));
  EXPECT_EQ(reap(*spawn_process(shell("ulimit -c 0; kill -ABRT $$"))),
            (ExitInfo{Kind::signaled, SIGABRT}));
}

TEST(ProcessExit, IsDescribedInWords) {
  EXPECT_EQ(describe({Kind::exited, 3}), "exited with status 3");
  EXPECT_EQ(describe({Kind::signaled, SIGKILL}), "killed by signal 9 (Killed)");
  EXPECT_EQ(describe({Kind::signaled, SIGSEGV, true}),
            "killed by signal 11 (Segmentation fault, core dumped)");
  EXPECT_EQ(describe({Kind::signaled, 63}), "killed by signal 63 (unknown signal)");
  EXPECT_THAT(describe({}), HasSubstr("unknown"));
}

TEST(ProcessExit, IsNotThereWhileTheProcessLives) {
  Pipe pipe = make_pipe();
  auto child = spawn_process(role("stay", {}, pipe.write.get()));
  ASSERT_TRUE(child) << child.error().what();
  EXPECT_EQ(read_line(pipe.read.get()), "here");
  EXPECT_EQ(try_reap(*child), std::nullopt);
  EXPECT_TRUE(send_signal(*child, SIGTERM));
  EXPECT_EQ(reap(*child), (ExitInfo{Kind::signaled, SIGTERM}));
  EXPECT_FALSE(send_signal(*child, SIGTERM));
  EXPECT_EQ(try_reap(*child), ExitInfo{}) << "a second time nobody knows";
}

TEST(ProcessExit, MakesThePidfdReadable) {
  auto child = spawn_process(shell("exit 0"));
  pollfd poller{child->pidfd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&poller, 1, -1), 1);
  EXPECT_EQ(try_reap(*child), (ExitInfo{Kind::exited, 0}));
}

TEST(ProcessExit, IsUnknownWhenTheHostReapedTheChild) {
  Pipe orders = make_pipe();
  auto spec = shell("read line <&4");
  spec.fds = {{orders.read.get(), 4}};
  auto child = spawn_process(spec);
  ASSERT_TRUE(child) << child.error().what();
  orders.write = shm::FileDescriptor();
  EXPECT_EQ(::waitpid(-1, nullptr, 0), child->pid);
  EXPECT_EQ(try_reap(*child), ExitInfo{});
  EXPECT_EQ(reap(*child), ExitInfo{});
  EXPECT_FALSE(send_signal(*child, SIGKILL));
  kill_group(*child);  // must not reach whoever has the number now
}

TEST(ProcessExit, IsUnknownWhenTheHostIgnoresSigchld) {
  const SignalState restore;
  ::signal(SIGCHLD, SIG_IGN);
  Pipe pipe = make_pipe();
  auto child = spawn_process(role("stay", {}, pipe.write.get()));
  ASSERT_TRUE(child) << child.error().what();
  EXPECT_EQ(read_line(pipe.read.get()), "here");
  EXPECT_EQ(try_reap(*child), std::nullopt);
  EXPECT_TRUE(send_signal(*child, SIGKILL));
  EXPECT_EQ(reap(*child), ExitInfo{});
}

TEST(KillGroup, TakesWhatTheChildStartedAlong) {
  Pipe pipe = make_pipe();
  auto spec = shell("sleep 1000 & echo started >&3; wait");
  spec.fds = {{pipe.write.get(), 3}};
  auto child = spawn_process(spec);
  pipe.write = shm::FileDescriptor();
  EXPECT_EQ(read_line(pipe.read.get()), "started");
  kill_group(*child);
  EXPECT_EQ(read_all(pipe.read.get()), "") << "ends when sleep is gone too";
  EXPECT_EQ(reap(*child), (ExitInfo{Kind::signaled, SIGKILL}));
}

TEST(KillGroup, ReachesOrphansOfADeadChildThatIsNotReaped) {
  Pipe pipe = make_pipe();
  auto spec = shell("sleep 1000 & exit 5");
  spec.fds = {{pipe.write.get(), 3}};
  auto child = spawn_process(spec);
  pipe.write = shm::FileDescriptor();
  pollfd poller{child->pidfd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&poller, 1, -1), 1);
  kill_group(*child);
  EXPECT_EQ(read_all(pipe.read.get()), "");
  EXPECT_EQ(reap(*child), (ExitInfo{Kind::exited, 5}));
}

TEST(DieWithParent, KillsTheChildWhenTheParentIsKilled) {
  Pipe pipe = make_pipe();
  auto parent = spawn_process(role("lead", {}, pipe.write.get()));
  ASSERT_TRUE(parent) << parent.error().what();
  pipe.write = shm::FileDescriptor();
  EXPECT_EQ(read_line(pipe.read.get()), "following");
  send_signal(*parent, SIGKILL);
  EXPECT_EQ(reap(*parent), (ExitInfo{Kind::signaled, SIGKILL}));
  EXPECT_EQ(read_all(pipe.read.get()), "") << "ends when the follower is gone too";
}

TEST(DieWithParent, KillsTheChildWhenTheThreadThatStartedItEnds) {
  Pipe pipe = make_pipe();
  Result<Child> child;
  std::thread([&] {
    child = spawn_process(role("follow", {std::to_string(::getpid())}, pipe.write.get()));
    EXPECT_EQ(read_line(pipe.read.get()), "following");
  }).join();
  EXPECT_EQ(reap(*child), (ExitInfo{Kind::signaled, SIGKILL}));
}

TEST(DieWithParent, KillsAtOnceWhenTheParentIsAlreadyAnother) {
  Pipe pipe = make_pipe();
  auto child = spawn_process(role("follow", {"1"}, pipe.write.get()));
  pipe.write = shm::FileDescriptor();
  EXPECT_EQ(reap(*child), (ExitInfo{Kind::signaled, SIGKILL}));
  EXPECT_EQ(read_all(pipe.read.get()), "") << "it did not come as far as to speak";
}

TEST(SpawnProcess, LeavesNoDescriptorAndNoZombieAfterManySpawns) {
  const auto before = test::open_fds();
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(reap(*spawn_process({"/bin/true", {}, {}, {{0, 3}, {1, 4}}})),
              (ExitInfo{Kind::exited, 0}));
  }
  EXPECT_EQ(test::open_fds(), before);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace forge::replicas

FORGE_TEST_MAIN_WITH_ROLES;
