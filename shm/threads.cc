#include "shm/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

namespace forge::shm {

std::thread start_thread(const char* name, const std::vector<int>& cpus,
                         std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // the new thread inherits it
  struct Restore {
    const sigset_t& mask;
    ~Restore() { pthread_sigmask(SIG_SETMASK, &mask, nullptr); }
  } restore{before};
  std::thread thread(std::move(body));
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
