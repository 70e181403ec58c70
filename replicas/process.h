// A child process: how it is started, signalled and reaped.
//
// A child gets what its SpawnSpec says and nothing else of this process: no other descriptor, no
// signal mask, no ignored signal, not its process group. Everything here is thread-safe for
// different children; note that a worker dies with the *thread* that started it (die_with_parent).
#pragma once

#include <sys/types.h>

#include <forge/result.h>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shm/file_descriptor.h"

namespace forge::replicas {

/// This process's descriptor `source` is the child's `target`; `source` stays open here.
struct FdMapping {
  int source = -1;
  int target = -1;
};

struct SpawnSpec {
  std::string path;                      ///< the executable; no search in $PATH
  std::vector<std::string> arguments;    ///< after argv[0], which is `path`
  std::vector<std::string> environment;  ///< all of it, as "NAME=value"
  /// By convention 3, 4, 5, …; targets 1 and 2 redirect the child's output. Unless they are mapped,
  /// stdin is /dev/null, and stdout and stderr are ours.
  std::vector<FdMapping> fds;
};

/// A started process that has not been reaped. The pidfd keeps naming it, whatever becomes of the pid.
struct Child {
  pid_t pid = -1;
  shm::FileDescriptor
      pidfd;            ///< readable once the process is dead; none if the system has no pidfds
  bool reaped = false;  ///< it ended at once, and something else in the program reaped it
};

struct ExitInfo {
  /// unknown: something else in the program reaped it (waitpid(-1), or SIGCHLD is ignored).
  enum class Kind : std::uint8_t { unknown, exited, signaled };
  Kind kind = Kind::unknown;
  int value = 0;      ///< exited: the status; signaled: the signal
  bool core = false;  ///< signaled: a core file was written

  friend bool operator==(const ExitInfo&, const ExitInfo&) = default;
};

/// "killed by signal 9 (Killed)", "exited with status 3"; follows the name of a process.
std::string describe(const ExitInfo& exit);

/// Starts a process in a process group of its own. InvalidArgument or Unavailable name the path and
/// what the system said.
Result<Child> spawn_process(const SpawnSpec& spec);

/// Has a signal stopped it (SIGSTOP)? A debugger's stop is none. False if it cannot be seen.
bool is_stopped(const Child& child);

/// False if the process is gone already.
bool send_signal(const Child& child, int signal);

/// Is it dead, or reaped? For a child without a pidfd.
bool has_ended(const Child& child);

/// None, and errno says why, if it has been reaped or the system has no pidfds.
shm::FileDescriptor open_pidfd(pid_t pid);

/// SIGKILL to the child and to all that it started and that stayed in its process group. Also right
/// for a child that is dead but not reaped. Once something else has reaped it, only its group gets
/// the signal, and only where the system can do that by the pidfd.
void kill_group(const Child& child);

/// How the child ended, if it has. Never blocks. After it returned a value the child is reaped.
std::optional<ExitInfo> try_reap(const Child& child);

/// Waits for the end. Does not hang if somebody else reaped the child: that is Kind::unknown.
ExitInfo reap(const Child& child);

/// For the child, first thing in main: SIGKILL when the thread that started it ends, at once if
/// `expected_parent` is not its parent any more.
Status die_with_parent(pid_t expected_parent);

}  // namespace forge::replicas
