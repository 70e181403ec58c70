#include "bench/forge_bench/kill.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace forge::bench {
namespace {

std::vector<int> living(const Service& service) {
  std::vector<int> pids;
  for (const ReplicaStatus& replica : service.replicas()) {
    if (replica.healthy) pids.insert(pids.end(), replica.pids.begin(), replica.pids.end());
  }
  return pids;
}

}  // namespace

shm::FileDescriptor hold_worker(const Service& service, int pid) {
  shm::FileDescriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return {};
  // Still listed after the pidfd was opened: it is this worker that we hold, not a successor of its
  // number.
  const std::vector<int> pids = living(service);
  return std::find(pids.begin(), pids.end(), pid) != pids.end() ? std::move(pidfd)
                                                                : shm::FileDescriptor();
}

bool send_signal(const shm::FileDescriptor& worker, int signal) {
  return ::syscall(SYS_pidfd_send_signal, worker.get(), signal, nullptr, 0) == 0;
}

bool kill_worker(const Service& service, int pid) {
  const shm::FileDescriptor worker = hold_worker(service, pid);
  return worker && send_signal(worker, SIGKILL);
}

Killer::Killer(const Service& service, int every_ms, std::uint64_t seed)
    : service_(service), random_(seed) {
  if (every_ms > 0) {
    thread_ = std::jthread(
        [this, every_ms](const std::stop_token& stopping) { run(stopping, every_ms); });
  }
}

std::uint64_t Killer::stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
  return kills_;
}

void Killer::run(const std::stop_token& stopping, int every_ms) {
  std::mutex mutex;
  std::condition_variable_any tick;
  std::unique_lock lock(mutex);
  auto next = std::chrono::steady_clock::now();
  for (;;) {
    next += std::chrono::milliseconds(every_ms);
    tick.wait_until(lock, stopping, next, [] { return false; });
    if (stopping.stop_requested()) return;
    if (kill_one()) ++kills_;
  }
}

bool Killer::kill_one() {
  const std::vector<int> pids = living(service_);
  if (pids.empty()) return false;  // all of them are on their way up
  return kill_worker(service_, pids[random_() % pids.size()]);
}

}  // namespace forge::bench
