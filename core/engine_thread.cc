#include "core/engine_thread.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <forge/error.h>
#include <algorithm>

#include "core/engine.h"
#include "core/fork.h"
#include "shm/threads.h"
#include "shm/wait_strategy.h"

namespace forge::core {
namespace {
constexpr std::chrono::microseconds kTick{500};
}

EngineThread::EngineThread(const std::vector<int>& cpus)
    : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), by_eventfd_(!shm::has_futex_waitv()) {
  if (!event_)
    throw Unavailable("eventfd: the process has no descriptor left; raise its limit (ulimit -n)");
  thread_ = shm::start_thread("forge-engine", cpus, [this] { run(); });
}

void EngineThread::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake();
  thread_.join();
}

void EngineThread::add(std::shared_ptr<Engine> engine) {
  const std::lock_guard lock(mutex_);
  engines_.push_back(std::move(engine));
  ++version_;
}

void EngineThread::remove(const Engine* engine) {
  std::unique_lock lock(mutex_);
  std::erase_if(engines_, [&](const auto& other) { return other.get() == engine; });
  const std::uint64_t version = ++version_;
  if (thread_.get_id() == std::this_thread::get_id()) return;
  while (seen_ < version && !stop_) {
    lock.unlock();
    wake();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    lock.lock();
  }
}

void EngineThread::wake() {
  shm::ring(kick_, shm::Scope::priv);
  if (by_eventfd()) (void)!::eventfd_write(event_.get(), 1);
}

void EngineThread::wake_before(std::int64_t deadline_ns) {
  if (deadline_ns < awake_at_.load(std::memory_order_relaxed)) wake();
}

void EngineThread::run() {
  std::vector<std::shared_ptr<Engine>> engines;
  std::vector<shm::WaitWord> words;
  for (;;) {
    words.clear();
    // The bells are read before all that they ring for: a ring in between keeps us from sleeping.
    // Acquire pairs with ring().
    words.push_back({&kick_, kick_.load(std::memory_order_acquire), shm::Scope::priv});
    engines.clear();  // drop what remove() waits for before telling it so
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return;
      engines = engines_;
      seen_ = version_;
    }
    bool all_bells = true;  // of one whose lock is held we look again instead
    for (const auto& engine : engines) all_bells = engine->append_bells(words) && all_bells;
    // Sticky: a service that once had many workers may have them again. All is looked at once more,
    // for what has been rung meanwhile in the other way. Relaxed: whoever rings has changed
    // something under a lock that we take next.
    if (words.size() > shm::kMaxWaitWords && !by_eventfd()) {
      by_eventfd_.store(true, std::memory_order_relaxed);
      continue;
    }

    // From here until we say otherwise, every new deadline has to wake us: we may have looked
    // already. Relaxed: deadlines are set under their engine's lock, which attend() takes.
    awake_at_.store(INT64_MAX, std::memory_order_relaxed);
    const auto now = SteadyClock::now();
    Attention most = all_bells ? Attention::none : Attention::watch;
    auto until = SteadyTime::max();
    for (const auto& engine : engines) {
      most = std::max(most, engine->attend(now));
      // One that has passed belongs to an engine that could not attend to it now.
      if (const auto deadline = engine->next_deadline())
        until = std::min(until, *deadline <= now ? now + kTick : *deadline);
    }
    if (most == Attention::spin) {
      shm::cpu_pause();
      ::sched_yield();
      continue;
    }
    if (most == Attention::watch) until = std::min(until, now + kTick);
    const bool forever = until == SteadyTime::max();
    awake_at_.store(forever ? INT64_MAX : until.time_since_epoch().count(),
                    std::memory_order_relaxed);
    sleep(words, forever ? std::nullopt : std::optional(until));
  }
}

void EngineThread::sleep(const std::vector<shm::WaitWord>& words,
                         std::optional<shm::SteadyTime> until) {
  if (!by_eventfd()) {
    shm::futex_wait_any(words, until);
    return;
  }
  timespec limit{};
  if (until) {
    const auto left = std::max(std::chrono::nanoseconds(0),
                               std::chrono::nanoseconds(*until - SteadyClock::now()));
    limit = {static_cast<time_t>(left.count() / 1'000'000'000),
             static_cast<long>(left.count() % 1'000'000'000)};
  }
  pollfd event{event_.get(), POLLIN, 0};
  if (::ppoll(&event, 1, until ? &limit : nullptr, nullptr) > 0) {
    eventfd_t count = 0;
    (void)!::eventfd_read(event_.get(), &count);
  }
}

}  // namespace forge::core
