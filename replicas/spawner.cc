#include "replicas/spawner.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <system_error>

#include "shm/threads.h"

namespace forge::replicas {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kWakeupId = 0;  // processes and timers count from 1

// The spawner whose thread this is. An id of the thread would be given to another one after its end.
thread_local const Spawner* t_spawner = nullptr;

// A dead process that a debugger holds cannot be reaped yet; its pidfd is readable all the same.
constexpr milliseconds kReapAgain{20};
// Without a pidfd nobody tells us of a death.
constexpr milliseconds kLookAgain{5};

std::shared_ptr<const Error> unavailable(const char* what, int error_number) {
  return make_error({ErrorCode::unavailable,
                     std::string("the watchdog cannot ") + what + ": " +
                         std::generic_category().message(error_number) +
                         "; raise the limit (ulimit -n, ulimit -u) or use fewer services"});
}

bool add_to_epoll(int epoll, int fd, std::uint64_t id) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = id;
  return ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

}  // namespace

Spawner::Spawner(SpawnerOptions options)
    : options_(options),
      owner_(::getpid()),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wakeup_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!epoll_ || !wakeup_ || !add_to_epoll(epoll_.get(), wakeup_.get(), kWakeupId)) {
    unavailable("get descriptors", errno)->raise();
  }
  thread_ = shm::start_thread("forge-watchdog", {}, [this] { run(); });
}

bool Spawner::on_thread() const { return t_spawner == this; }

bool Spawner::post(Job job) {
  if (::getpid() != owner_) return false;
  {
    std::lock_guard lock(mutex_);
    if (!accepting_) return false;
    jobs_.push_back(std::move(job));
  }
  wake();
  return true;
}

void Spawner::stop() {
  if (::getpid() != owner_) {  // the thread was not copied: joining it would wait for ever
    if (thread_.joinable()) thread_.detach();
    return;
  }
  require_thread(false, "stop");
  {
    std::lock_guard lock(mutex_);
    accepting_ = false;
  }
  wake();
  std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Spawner::wake() {
  const std::uint64_t one = 1;
  // Fails only when the counter is full, and then the thread is awake.
  [[maybe_unused]] const auto written = ::write(wakeup_.get(), &one, sizeof one);
}

void Spawner::require_thread(bool watchdog, const char* function) const {
  if (on_thread() == watchdog) return;
  std::fprintf(stderr, "forge: Spawner::%s called %s the watchdog thread\n", function,
               watchdog ? "outside" : "on");
  std::abort();
}

Result<Process> Spawner::spawn(const SpawnSpec& spec, ProcessCallbacks callbacks) {
  require_thread(true, "spawn");
  if (closing_) {
    return make_error({ErrorCode::stopped,
                       "cannot start '" + spec.path + "': the controller has been shut down"});
  }
  auto child = spawn_process(spec);
  if (!child) return child.error_ptr();
  const std::uint64_t id = ++last_id_;
  const bool has_pidfd = static_cast<bool>(child->pidfd);
  if (has_pidfd && !add_to_epoll(epoll_.get(), child->pidfd.get(), id)) {
    const int error_number = errno;
    kill_group(*child);
    reap(*child);
    return unavailable("watch one more process", error_number);
  }
  const pid_t pid = child->pid;
  processes_.emplace(id, Watched{std::move(*child), std::move(callbacks)});
  if (!has_pidfd) look_at(id, milliseconds(0));
  return Process{id, pid};
}

bool Spawner::kill(const Process& process) {
  require_thread(true, "kill");
  const auto it = processes_.find(process.id);
  if (it == processes_.end()) return false;
  kill_group(it->second.child);
  if (!it->second.stuck && !it->second.reported) {
    it->second.stuck = add_timer(std::chrono::steady_clock::now() + options_.stuck_after,
                                 [this, id = process.id] { report_stuck(id); });
  }
  return true;
}

bool Spawner::is_stopped(const Process& process) const {
  require_thread(true, "is_stopped");
  const auto it = processes_.find(process.id);
  return it != processes_.end() && replicas::is_stopped(it->second.child);
}

bool Spawner::send_signal(const Process& process, int signal) {
  require_thread(true, "send_signal");
  const auto it = processes_.find(process.id);
  return it != processes_.end() && replicas::send_signal(it->second.child, signal);
}

Spawner::Timer Spawner::at(SteadyTime when, Job job) {
  require_thread(true, "at");
  return closing_ ? Timer{} : add_timer(when, std::move(job));
}

Spawner::Timer Spawner::add_timer(SteadyTime when, Job job) {
  const Timer timer{when, ++last_id_};
  timers_.emplace(timer, std::move(job));
  return timer;
}

bool Spawner::cancel(const Timer& timer) {
  require_thread(true, "cancel");
  return timers_.erase(timer) == 1;
}

void Spawner::run() {
  t_spawner = this;
  for (;;) {
    run_jobs();
    run_due_timers();
    if (closing_ && !closed_down_) close_down();
    if (closed_down_ && processes_.empty()) return;
    wait_for_events();
  }
}

void Spawner::run_jobs() {
  std::vector<Job> jobs;
  {
    std::lock_guard lock(mutex_);
    jobs.swap(jobs_);
    closing_ = !accepting_;  // once true, these jobs are the last
  }
  for (Job& job : jobs) job();
}

void Spawner::run_due_timers() {
  const SteadyTime now = std::chrono::steady_clock::now();
  while (!timers_.empty() && timers_.begin()->first.when <= now) {
    const auto timer =
        timers_.extract(timers_.begin());  // so that cancel() does not find it any more
    timer.mapped()();
  }
}

void Spawner::wait_for_events() {
  int timeout_ms = -1;
  if (!timers_.empty()) {
    // Rounded up: a timer must not fire early, and zero would spin until it is due.
    const auto left = std::chrono::ceil<milliseconds>(timers_.begin()->first.when -
                                                      std::chrono::steady_clock::now());
    constexpr milliseconds kLongest{std::numeric_limits<int>::max()};
    timeout_ms = static_cast<int>(std::clamp(left, milliseconds{0}, kLongest).count());
  }
  std::array<epoll_event, 32> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms);
  for (int i = 0; i < count; ++i) {
    const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
    if (id != kWakeupId) {
      collect(id);
      continue;
    }
    std::uint64_t drained;
    [[maybe_unused]] const auto got = ::read(wakeup_.get(), &drained, sizeof drained);
  }
}

void Spawner::collect(std::uint64_t id) {
  const auto it = processes_.find(id);
  if (it == processes_.end()) return;  // an earlier event of the same batch dealt with it
  // What the worker started itself goes first: once it is reaped, its number may be another's.
  kill_group(it->second.child);
  const auto exit = try_reap(it->second.child);
  if (!exit) {
    it->second.held = true;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, it->second.child.pidfd.get(), nullptr);
    add_timer(std::chrono::steady_clock::now() + kReapAgain, [this, id] { collect(id); });
    return;
  }
  const Watched gone = forget(it);
  if (gone.callbacks.on_exit) gone.callbacks.on_exit(*exit);
}

void Spawner::look_at(std::uint64_t id, std::chrono::milliseconds delay) {
  add_timer(std::chrono::steady_clock::now() + delay, [this, id] {
    const auto it = processes_.find(id);
    if (it == processes_.end()) return;
    if (has_ended(it->second.child)) return collect(id);
    look_at(id, kLookAgain);
  });
}

Spawner::Watched Spawner::forget(Processes::iterator it) {
  // Closing would not do: a forked copy of the program may hold the pidfd, and epoll report it for ever.
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, it->second.child.pidfd.get(), nullptr);
  timers_.erase(it->second.stuck);
  Watched gone = std::move(it->second);
  processes_.erase(it);
  return gone;
}

void Spawner::report_stuck(std::uint64_t id) {
  const auto it = processes_.find(id);
  if (it == processes_.end()) return;
  it->second.stuck = {};
  it->second.reported = true;
  const auto on_stuck =
      it->second.callbacks.on_stuck;  // a copy: the callback may be the last to need us
  // Nobody will be there to reap it, but it has been sent its SIGKILL and cannot run user code again.
  if (closed_down_) forget(it);
  if (on_stuck) on_stuck();
}

void Spawner::close_down() {
  closed_down_ = true;
  timers_.clear();
  for (auto it = processes_.begin(); it != processes_.end();) {
    const auto current = it++;
    const auto& [id, watched] = *current;
    current->second.stuck = {};  // went with the timers, as did the next look at one that is held
    if (watched.reported) {
      forget(current);
      continue;
    }
    kill({id, watched.child.pid});
    if (watched.held) add_timer(SteadyTime::clock::now(), [this, dead = id] { collect(dead); });
    if (!watched.child.pidfd) look_at(id, milliseconds(0));
  }
}

}  // namespace forge::replicas
