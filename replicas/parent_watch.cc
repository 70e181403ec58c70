#include "replicas/parent_watch.h"

#include <fcntl.h>
#include <forge/error.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "replicas/process.h"
#include "shm/threads.h"

namespace forge::replicas {
namespace {

using namespace std::chrono_literals;

/// A worker leads its group. Of another group it may have joined, it takes nobody along.
void end_group() {
  ::kill(-::getpid(), SIGKILL);
  ::kill(::getpid(), SIGKILL);
}

/// SIGCONT instead of SIGKILL, so that this thread runs even if the process was stopped. Each thread
/// has its own.
void wake_with_parents_end() { ::prctl(PR_SET_PDEATHSIG, SIGCONT); }

void wait_for_end(pid_t parent) {
  wake_with_parents_end();
  {
    const shm::FileDescriptor pidfd = open_pidfd(parent);
    pollfd death{pidfd.get(), POLLIN, 0};
    // Once only: by the next time the actor may have closed it, and the number be another file's.
    if (pidfd && ::getppid() == parent) (void)::poll(&death, 1, -1);
  }
  while (::getppid() == parent) std::this_thread::sleep_for(100ms);
  end_group();
}

}  // namespace

void close_on_exec_from(int first) {
  for (int fd = first; ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0; ++fd) continue;
}

void watch_parent(pid_t expected_parent) {
  try {
    shm::start_thread("forge-parent", {}, [expected_parent] {
      wait_for_end(expected_parent);
    }).detach();
  } catch (const Error&) {
    return;
  }
  wake_with_parents_end();
}

}  // namespace forge::replicas
