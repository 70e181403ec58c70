#include "shm/threads.h"

#include <forge/error.h>
#include <pthread.h>
#include <sched.h>

#include <string>
#include <system_error>

namespace forge::shm {

namespace {
thread_local bool is_own = false;
}

bool on_own_thread() { return is_own; }

BlockedSignals::BlockedSignals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}

BlockedSignals::~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

std::thread start_thread(const char* name, const std::vector<int>& cpus,
                         std::function<void()> body) {
  const BlockedSignals blocked;
  std::thread thread;
  try {
    thread = std::thread([body = std::move(body)] {
      is_own = true;
      body();
    });
  } catch (const std::system_error& error) {
    throw Unavailable("cannot start the thread " + std::string(name) + ": " + error.what() +
                      "; raise the limit (ulimit -u, pids.max of the cgroup) or start less");
  }
  pthread_setname_np(thread.native_handle(), name);
  if (!cpus.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus) CPU_SET(static_cast<std::size_t>(cpu), &set);
    pthread_setaffinity_np(thread.native_handle(), sizeof(set), &set);
  }
  return thread;
}

}  // namespace forge::shm
