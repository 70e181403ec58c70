// The worker as a process: what its children inherit, and that nothing of it outlives the program
// that started it. The actor is linked in; the program is controller, worker and test.
#include <forge/plugin.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <vector>

#include "tests/e2e/support.h"

extern char** environ;

namespace {

constexpr uid_t kNobody = 65534;

/// A program that an actor starts and that stays in the actor's process group.
int start_helper() {
  std::string program = "/bin/sleep";
  std::string seconds = "600";
  char* arguments[] = {program.data(), seconds.data(), nullptr};
  pid_t pid = -1;
  return ::posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environ) == 0 ? pid : -1;
}

/// Does what actors and the libraries they use do to their process.
class Meddler : public forge::ForgeActor {
 public:
  std::int64_t pid() { return ::getpid(); }
  std::int64_t helper() { return start_helper(); }
  void clear_death_signal() { ::prctl(PR_SET_PDEATHSIG, 0); }
  std::int64_t become_nobody() { return ::setuid(kNobody); }
  void block_signals() {
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, nullptr);
  }
  void close_descriptors() {
    for (int fd = 3; fd < 256; ++fd) ::close(fd);
  }
  /// Takes the numbers of the descriptors that were closed.
  void open_descriptors(const std::string& path) {
    for (int i = 0; i < 8; ++i) (void)!::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }
  forge::Tensor large() { return forge::context().allocate(forge::DType::u8, {8 << 20}); }
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Meddler>("Meddler")
      .endpoint("pid", &Meddler::pid)
      .endpoint("helper", &Meddler::helper)
      .endpoint("clear_death_signal", &Meddler::clear_death_signal)
      .endpoint("become_nobody", &Meddler::become_nobody)
      .endpoint("block_signals", &Meddler::block_signals)
      .endpoint("close_descriptors", &Meddler::close_descriptors)
      .endpoint("open_descriptors", &Meddler::open_descriptors)
      .endpoint("large", &Meddler::large);
}

namespace forge::e2e {
namespace {

/// What the descriptors of a process refer to, the standard ones left out.
std::vector<std::string> files_of(std::int64_t pid) {
  std::vector<std::string> files;
  const std::filesystem::path folder = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string number = entry.path().filename();
    if (std::stoi(number) > STDERR_FILENO)
      files.push_back(number + " " + std::filesystem::read_symlink(entry.path()).string());
  }
  return files;
}

std::string name_of(std::int64_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

class Process : public ::testing::Test {
 protected:
  Service serve(Options options = {}) {
    return controller_.self().actor("Meddler").options(std::move(options)).as_service();
  }
  Controller controller_{quiet()};
};

TEST_F(Process, WhatAnActorStartsInheritsNothing) {
  const Service service = serve({.procs = 2});
  for (const auto& helper : service.endpoint<std::int64_t()>("helper").fanout().get()) {
    ASSERT_TRUE(wait_until([&] { return name_of(helper.value()) == "sleep"; }));
    EXPECT_THAT(files_of(helper.value()), ::testing::IsEmpty());
  }
}

struct Program {
  pid_t pid = -1;
  std::FILE* output = nullptr;
};

/// This program in another role.
Program start_program(std::string role, std::string argument) {
  std::string self = std::filesystem::read_symlink("/proc/self/exe");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  char* arguments[] = {self.data(), role.data(), argument.data(), nullptr};
  Program program;
  if (::posix_spawn(&program.pid, self.c_str(), &actions, nullptr, arguments, environ) == 0)
    program.output = ::fdopen(ends[0], "r");
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  return program;
}

/// Its output, and how it ended.
std::string output_of(Program program) {
  std::string text;
  for (int c; program.output != nullptr && (c = std::fgetc(program.output)) != EOF;)
    text.push_back(static_cast<char>(c));
  if (program.output != nullptr) std::fclose(program.output);
  int status = 0;
  ::waitpid(program.pid, &status, 0);
  return text + (WIFEXITED(status) ? "exit " + std::to_string(WEXITSTATUS(status))
                                   : "signal " + std::to_string(WTERMSIG(status)));
}

// ---- the host is killed

/// Another process: serves two replicas, meddles as told, says who they and their helpers are, and
/// never ends.
int run_host(const std::string& deed) {
  Controller controller(quiet());
  const Service service =
      controller.self().actor("Meddler").options({.num_replicas = 2}).as_service();
  if (deed == "become_nobody") {
    service.endpoint<std::int64_t()>(deed).fanout().get();
  } else if (!deed.empty() && deed != "stop") {
    service.endpoint<void()>(deed).fanout().get();
  }
  for (const auto& pid : service.endpoint<std::int64_t()>("helper").fanout().get())
    std::printf("%d\n", static_cast<int>(pid.value()));
  for (const int pid : pids_of(service)) {
    if (deed == "stop") ::kill(pid, SIGSTOP);
    std::printf("%d\n", pid);
  }
  std::fflush(stdout);
  for (;;) ::pause();
}

class KilledHost : public ::testing::TestWithParam<const char*> {};

TEST_P(KilledHost, TakesWorkersAndTheirHelpersAlong) {
  if (GetParam() == std::string("become_nobody") && ::geteuid() != 0)
    GTEST_SKIP() << "only root can become somebody else";
  auto [host, lines] = start_program("--host", GetParam());
  ASSERT_NE(lines, nullptr);
  std::vector<int> processes(4);
  for (int& pid : processes) ASSERT_EQ(std::fscanf(lines, "%d", &pid), 1);
  for (const int pid : processes) EXPECT_FALSE(ended(pid));
  ::kill(host, SIGKILL);
  EXPECT_EQ(::waitpid(host, nullptr, 0), host);
  std::fclose(lines);
  for (const int pid : processes) {
    EXPECT_TRUE(wait_until([&] { return ended(pid); }, 10s)) << name_of(pid);
    ::kill(pid, SIGKILL);
  }
}

INSTANTIATE_TEST_SUITE_P(Deeds, KilledHost,
                         ::testing::Values("", "clear_death_signal", "become_nobody",
                                           "block_signals", "close_descriptors", "stop"));

// ---- system calls that are not there

/// From now on, for this process and its children, the calls answer with `error`.
bool take_away(std::initializer_list<unsigned> calls, unsigned error) {
  std::vector<sock_filter> program{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const unsigned call : calls) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/// From now on a command of fcntl whose argument has one of these bits answers EINVAL.
bool take_away_seals(unsigned bits) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fcntl, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, F_ADD_SEALS, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/// Calls, large answers, a worker that is killed and replaced, two ranks, a shutdown.
void use_everything() {
  Controller controller(quiet());
  const Service service =
      controller.self().actor("Meddler").options({.procs = 2, .num_replicas = 2}).as_service();
  const auto pid = service.endpoint<std::int64_t()>("pid");
  for (int i = 0; i < 100; ++i) pid.fanout().get();
  if (service.endpoint<Tensor()>("large").fanout().get().front().value().size() != 8U << 20)
    throw std::runtime_error("a large answer has another size");
  ::kill(pids_of(service).front(), SIGKILL);
  if (!wait_until([&] { return service.replicas().at(0).incarnation == 2; }) ||
      !wait_healthy(service))
    throw std::runtime_error("the killed worker was not replaced");
  pid.fanout().get();
  controller.shutdown();
  if (!children().empty()) throw std::runtime_error("a worker is left");
}

int run_sandboxed(const std::string& sandbox) {
  const unsigned error = sandbox == "refused" ? EPERM : ENOSYS;
  bool taken = true;
  if (sandbox == "missing" || sandbox == "refused")
    taken = take_away({SYS_pidfd_open, SYS_pidfd_send_signal, SYS_futex_waitv, SYS_close_range,
                       SYS_getrandom, SYS_statx, SYS_faccessat2},
                      error) &&
            (error == EPERM || take_away({SYS_clone3}, error));
  if (sandbox == "no signals") taken = take_away({SYS_pidfd_send_signal}, ENOSYS);
  if (sandbox == "no waitv") taken = take_away({SYS_futex_waitv, SYS_pidfd_open}, ENOSYS);
  if (sandbox == "no seal") taken = take_away_seals(F_SEAL_FUTURE_WRITE);
  if (sandbox == "no memfd") taken = take_away({SYS_memfd_create}, ENOSYS);
  if (sandbox == "small files") {
    const rlimit limit{65536, 65536};
    taken = ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
  }
  if (!taken) return 77;
  try {
    use_everything();
  } catch (const Error& failed) {
    std::printf("%s: %s\n", std::string(failed.code()).c_str(), failed.what());
    return 1;
  } catch (const std::exception& failed) {
    std::printf("%s\n", failed.what());
    return 1;
  }
  return 0;
}

class MissingCalls : public ::testing::TestWithParam<const char*> {};

TEST_P(MissingCalls, AreDoneWithout) {
  EXPECT_EQ(output_of(start_program("--sandboxed", GetParam())), "exit 0");
}

INSTANTIATE_TEST_SUITE_P(Sandboxes, MissingCalls,
                         ::testing::Values("missing", "refused", "no signals", "no waitv",
                                           "no seal"));

TEST(NeededCalls, AreNamed) {
  const std::string text = output_of(start_program("--sandboxed", "no memfd"));
  EXPECT_THAT(text, ::testing::HasSubstr("allow memfd_create (Linux 3.17) in this sandbox"));
  EXPECT_THAT(text, ::testing::EndsWith("exit 1"));
}

TEST(FileSizeLimit, IsAnErrorAndNoSignal) {
  const std::string text = output_of(start_program("--sandboxed", "small files"));
  EXPECT_THAT(text, ::testing::HasSubstr("unavailable"));
  EXPECT_THAT(text, ::testing::HasSubstr("ulimit -f"));
  EXPECT_THAT(text, ::testing::EndsWith("exit 1"));
}

// ---- ends that nobody can tell of

TEST_F(Process, KillsAreNoCrashesWhereSigchldIsIgnored) {
  const auto before = ::signal(SIGCHLD, SIG_IGN);
  {
    const Service service = serve();
    const auto pid = service.endpoint<std::int64_t()>("pid").with({.timeout = 1min});
    for (std::uint64_t life = 2; life < 12; ++life) {
      ::kill(static_cast<int>(pid.route().get()), SIGKILL);
      ASSERT_TRUE(wait_until([&] {
        return service.replicas().at(0).incarnation == life && all_healthy(service);
      })) << to_string(service.replicas().at(0).state)
          << " in life " << life;
    }
  }
  ::signal(SIGCHLD, before);
}

}  // namespace
}  // namespace forge::e2e

int main(int argc, char** argv) {
  forge::init(argc, argv);  // workers are this same program
  if (argc == 3 && std::string_view(argv[1]) == "--host") return forge::e2e::run_host(argv[2]);
  if (argc == 3 && std::string_view(argv[1]) == "--sandboxed")
    return forge::e2e::run_sandboxed(argv[2]);
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
