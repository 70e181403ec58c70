// The engine thread: poller of last resort for all services of a controller, and the one that minds
// deadlines.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "shm/doorbell.h"
#include "shm/file_descriptor.h"

namespace forge::core {

class Engine;

/// add(), remove(), wake(): any thread.
class EngineThread {
 public:
  explicit EngineThread(const std::vector<int>& cpus);
  ~EngineThread() { stop(); }
  /// Ends the thread. Idempotent; not on the thread itself.
  void stop();

  void add(std::shared_ptr<Engine> engine);
  /// When it returns, the thread does not touch the engine any more.
  void remove(const Engine* engine);

  /// Look at everything again, now.
  void wake();
  /// wake() unless it will be awake by then anyway.
  void wake_before(std::int64_t deadline_ns);

  /// Workers ring by eventfd: there is no futex_waitv, or there are more bells than it takes.
  bool by_eventfd() const { return by_eventfd_.load(std::memory_order_relaxed); }
  int event_fd() const { return event_.get(); }

 private:
  void run();
  void sleep(const std::vector<shm::WaitWord>& words, std::optional<shm::SteadyTime> until);

  shm::FileDescriptor event_;
  std::atomic<bool> by_eventfd_;
  std::atomic<std::int64_t> awake_at_{0};  // when it will look again by itself
  shm::Word kick_{0};
  std::mutex mutex_;
  std::vector<std::shared_ptr<Engine>> engines_;  // under mutex_
  bool stop_ = false;                             // under mutex_
  std::uint64_t version_ = 0;                     // under mutex_
  std::uint64_t seen_ = 0;                        // under mutex_: the version the thread works on
  std::thread thread_;
};

}  // namespace forge::core
