#include "replicas/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <system_error>

namespace forge::replicas {
namespace {

using shm::FileDescriptor;

constexpr int kLastStandardFd = STDERR_FILENO;
constexpr unsigned kToProcessGroup = 4;  // PIDFD_SIGNAL_PROCESS_GROUP

std::string error_text(int error_number) { return std::generic_category().message(error_number); }

std::shared_ptr<const Error> invalid(const SpawnSpec& spec, const std::string& why) {
  return make_error({ErrorCode::invalid_argument, "cannot start '" + spec.path + "': " + why});
}

bool is_shortage(int error_number) {
  return error_number == EAGAIN || error_number == ENOMEM || error_number == EMFILE ||
         error_number == ENFILE;
}

std::shared_ptr<const Error> spawn_failure(const SpawnSpec& spec, int error_number) {
  const bool short_of_something = is_shortage(error_number);
  const char* remedy = "; check that it is a file this user may execute";
  if (short_of_something) remedy = "; raise the limit (ulimit -u, ulimit -n, cgroup) or start less";
  if (error_number == E2BIG) remedy = "; make its arguments or environment smaller";
  return make_error({short_of_something ? ErrorCode::unavailable : ErrorCode::invalid_argument,
                     "cannot start '" + spec.path + "': " + error_text(error_number) + remedy});
}

/// posix_spawn's two parameter objects, and the first error that filling them met.
class SpawnParameters {
 public:
  SpawnParameters() {
    note(::posix_spawnattr_init(&attributes_));
    note(::posix_spawn_file_actions_init(&actions_));
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    note(::posix_spawnattr_setsigmask(&attributes_, &none));
    note(::posix_spawnattr_setsigdefault(&attributes_, &all));
    note(::posix_spawnattr_setpgroup(&attributes_, 0));
    note(::posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP));
  }
  SpawnParameters(const SpawnParameters&) = delete;
  SpawnParameters& operator=(const SpawnParameters&) = delete;
  ~SpawnParameters() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }

  void move_fd(int source, int target) {
    note(::posix_spawn_file_actions_adddup2(&actions_, source, target));
  }
  void open_null(int target, int flags) {
    note(::posix_spawn_file_actions_addopen(&actions_, target, "/dev/null", flags, 0));
  }
  void close(int target) { note(::posix_spawn_file_actions_addclose(&actions_, target)); }
  void close_from(int target) {
    note(::posix_spawn_file_actions_addclosefrom_np(&actions_, target));
  }

  int error() const { return error_; }
  int spawn(pid_t& pid, const char* path, char* const* arguments, char* const* environment) {
    return ::posix_spawn(&pid, path, &actions_, &attributes_, arguments, environment);
  }

 private:
  void note(int error) {
    if (error_ == 0) error_ = error;
  }

  posix_spawnattr_t attributes_;
  posix_spawn_file_actions_t actions_;
  int error_ = 0;
};

bool is_target(const SpawnSpec& spec, int fd) {
  return std::any_of(spec.fds.begin(), spec.fds.end(),
                     [fd](const FdMapping& mapping) { return mapping.target == fd; });
}

/// Writes the child's descriptor table into `parameters`. `lifted` holds copies that must live until
/// the spawn is over.
Result<void> plan_fds(const SpawnSpec& spec, SpawnParameters& parameters,
                      std::vector<FileDescriptor>& lifted) {
  int last = kLastStandardFd;
  for (const FdMapping& mapping : spec.fds) {
    const auto same_target = [&](const FdMapping& other) { return other.target == mapping.target; };
    if (mapping.target < 0 || std::count_if(spec.fds.begin(), spec.fds.end(), same_target) > 1) {
      return invalid(spec, "descriptor " + std::to_string(mapping.target) +
                               " of the child must be named once and not be negative");
    }
    last = std::max(last, mapping.target);
  }
  for (const FdMapping& mapping : spec.fds) {
    int source = mapping.source;
    // dup2 in the child overwrites targets one by one, so no source may lie among them. The copy
    // also makes source == target a real dup2, which drops O_CLOEXEC.
    if (source <= last) {
      source = ::fcntl(source, F_DUPFD_CLOEXEC, last + 1);
      if (source < 0 && errno == EINVAL) errno = EMFILE;  // the limit is below what we ask for
      lifted.emplace_back(source);
    }
    if (source < 0 || ::fcntl(source, F_GETFD) < 0) {
      const int error_number = errno;
      if (error_number == EMFILE) return spawn_failure(spec, error_number);
      return invalid(spec, "descriptor " + std::to_string(mapping.source) +
                               ", to become the child's " + std::to_string(mapping.target) + ": " +
                               error_text(error_number));
    }
    parameters.move_fd(source, mapping.target);
  }
  for (int fd = 0; fd <= last; ++fd) {
    if (is_target(spec, fd)) continue;
    if (fd > kLastStandardFd) {
      parameters.close(fd);
      continue;
    }
    // A closed standard descriptor would be taken by the first file the child opens.
    const int flags = ::fcntl(fd, F_GETFD);
    if (fd == STDIN_FILENO)
      parameters.open_null(fd, O_RDONLY);
    else if (flags < 0 || (flags & FD_CLOEXEC) != 0)
      parameters.open_null(fd, O_WRONLY);
  }
  parameters.close_from(last + 1);
  return {};
}

std::vector<char*> pointers(const std::string* first, const std::vector<std::string>& rest) {
  std::vector<char*> out;
  out.reserve(rest.size() + 2);
  // The interface predates const; execve does not write through them.
  if (first != nullptr) out.push_back(const_cast<char*>(first->c_str()));
  for (const std::string& text : rest) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

int wait_for(idtype_t type, int id, siginfo_t& info, int flags) {
  for (;;) {
    info = {};
    if (::waitid(type, static_cast<id_t>(id), &info, WEXITED | flags) == 0) return 0;
    if (errno != EINTR) return errno;
  }
}

/// waitid on the child. ECHILD: it is not ours to wait for, or has been reaped.
int wait_on(const Child& child, siginfo_t& info, int flags) {
  if (child.reaped) return ECHILD;
  if (child.pidfd) {
    const int error = wait_for(P_PIDFD, child.pidfd.get(), info, flags);
    if (error == 0 || error == ECHILD) return error;
  }
  return wait_for(P_PID, child.pid, info, flags);
}

Result<Child> watch(const SpawnSpec& spec, pid_t pid) {
  Child child{pid, open_pidfd(pid)};
  const int error_number = child.pidfd ? 0 : errno;
  if (is_shortage(error_number)) {
    ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) continue;
    return spawn_failure(spec, error_number);
  }
  // A host that reaps any child may have reaped this one by now, and the pid may be another's.
  siginfo_t info;
  child.reaped = error_number == ESRCH || wait_on(child, info, WNOHANG | WNOWAIT) == ECHILD;
  if (child.reaped) child.pidfd = FileDescriptor();
  return child;
}

}  // namespace

std::string describe(const ExitInfo& exit) {
  switch (exit.kind) {
    case ExitInfo::Kind::exited:
      return "exited with status " + std::to_string(exit.value);
    case ExitInfo::Kind::signaled: {
      const char* name = ::sigdescr_np(exit.value);
      return "killed by signal " + std::to_string(exit.value) + " (" +
             (name != nullptr ? name : "unknown signal") + (exit.core ? ", core dumped)" : ")");
    }
    case ExitInfo::Kind::unknown:
      break;
  }
  return "ended in a way unknown to forge (this program ignores SIGCHLD, or reaps children that "
         "are "
         "not its own)";
}

Result<Child> spawn_process(const SpawnSpec& spec) {
  SpawnParameters parameters;
  std::vector<FileDescriptor> lifted;
  if (auto planned = plan_fds(spec, parameters, lifted); !planned) return planned.error_ptr();
  const auto arguments = pointers(&spec.path, spec.arguments);
  const auto environment = pointers(nullptr, spec.environment);
  pid_t pid = -1;
  int error = parameters.error();
  if (error == 0)
    error = parameters.spawn(pid, spec.path.c_str(), arguments.data(), environment.data());
  if (error != 0) return spawn_failure(spec, error);
  return watch(spec, pid);
}

bool is_stopped(const Child& child) {
  // The state follows the name, which may hold anything but ends with the last ')': proc(5).
  std::ifstream file("/proc/" + std::to_string(child.pid) + "/stat");
  const std::string line{std::istreambuf_iterator<char>(file), {}};
  const std::size_t name_end = line.rfind(')');
  return name_end != std::string::npos && name_end + 2 < line.size() && line[name_end + 2] == 'T';
}

bool send_signal(const Child& child, int signal) {
  if (child.pidfd) {
    if (::syscall(SYS_pidfd_send_signal, child.pidfd.get(), signal, nullptr, 0) == 0) return true;
    if (errno == ESRCH) return false;
  }
  siginfo_t info;
  return wait_on(child, info, WNOHANG | WNOWAIT) == 0 && ::kill(child.pid, signal) == 0;
}

bool has_ended(const Child& child) {
  siginfo_t info;
  return wait_on(child, info, WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

FileDescriptor open_pidfd(pid_t pid) {
  return FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

void kill_group(const Child& child) {
  // While the child is unreaped its number, and so that of its group, belongs to nobody else. The
  // pidfd stands for both even afterwards.
  siginfo_t info;
  if (wait_on(child, info, WNOHANG | WNOWAIT) == ECHILD) {
    if (child.pidfd)
      ::syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, kToProcessGroup);
    return;
  }
  send_signal(child, SIGKILL);  // in case it left its group
  ::kill(-child.pid, SIGKILL);
}

std::optional<ExitInfo> try_reap(const Child& child) {
  siginfo_t info;
  if (wait_on(child, info, WNOHANG) != 0) return ExitInfo{};
  if (info.si_pid == 0) return std::nullopt;
  if (info.si_code == CLD_EXITED) return ExitInfo{ExitInfo::Kind::exited, info.si_status};
  return ExitInfo{ExitInfo::Kind::signaled, info.si_status, info.si_code == CLD_DUMPED};
}

ExitInfo reap(const Child& child) {
  siginfo_t info;
  wait_on(child, info, WNOWAIT);
  return try_reap(child).value_or(ExitInfo{});
}

Status die_with_parent(pid_t expected_parent) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
    return {ErrorCode::unavailable,
            "prctl(PR_SET_PDEATHSIG): " + error_text(errno) + "; allow prctl in this sandbox"};
  }
  // A parent that died before the call above sent nothing.
  if (::getppid() != expected_parent) ::raise(SIGKILL);
  return {};
}

}  // namespace forge::replicas
