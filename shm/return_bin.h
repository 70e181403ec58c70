// A return bin: where any thread leaves block offsets that the owner of an allocator will take back
// later.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace forge::shm {

/// put() from any thread, also from destructors; take() by the owner.
class ReturnBin {
 public:
  void put(std::uint64_t offset) {
    const std::lock_guard lock(mutex_);
    offsets_.push_back(offset);
    any_.store(true, std::memory_order_relaxed);
    if (watcher_) watcher_();
  }

  /// From now on `watcher` is called, by whoever it is, after each put(); null: nobody. It must not
  /// come back here. What was put before is there for take(). When this returns, the one before it is
  /// not called any more.
  void watch(std::function<void()> watcher) {
    const std::lock_guard lock(mutex_);
    watcher_ = std::move(watcher);
  }

  /// Moves what has been put to the end of `out`. Nearly free while there is nothing.
  void take(std::vector<std::uint64_t>& out) {
    if (any()) take_all(out);
  }
  /// A hint: what is missed now comes next time.
  bool any() const { return any_.load(std::memory_order_relaxed); }

  /// The same as take(), and misses nothing whose put() is over.
  void take_all(std::vector<std::uint64_t>& out) {
    const std::lock_guard lock(mutex_);
    out.insert(out.end(), offsets_.begin(), offsets_.end());
    offsets_.clear();
    any_.store(false, std::memory_order_relaxed);
  }

 private:
  std::mutex mutex_;
  std::atomic<bool> any_{false};
  std::vector<std::uint64_t> offsets_;
  std::function<void()> watcher_;
};

}  // namespace forge::shm
