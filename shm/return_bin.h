// A return bin: where any thread leaves block offsets that the owner of an allocator will take back
// later.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace forge::shm {

/// put() from any thread, also from destructors; take() by the owner.
class ReturnBin {
 public:
  void put(std::uint64_t offset) {
    const std::lock_guard lock(mutex_);
    offsets_.push_back(offset);
    any_.store(true, std::memory_order_relaxed);
  }

  /// Moves what has been put to the end of `out`. Nearly free while there is nothing.
  void take(std::vector<std::uint64_t>& out) {
    if (!any_.load(std::memory_order_relaxed))
      return;  // a hint: what is missed now comes next time
    const std::lock_guard lock(mutex_);
    out.insert(out.end(), offsets_.begin(), offsets_.end());
    offsets_.clear();
    any_.store(false, std::memory_order_relaxed);
  }

 private:
  std::mutex mutex_;
  std::atomic<bool> any_{false};
  std::vector<std::uint64_t> offsets_;
};

}  // namespace forge::shm
