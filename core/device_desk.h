// The book of devices, where all controllers of this program meet.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "gpu/device_book.h"

namespace forge::core {

/// Any thread. Its lock is a leaf: taken under a service's, and nothing else is waited for meanwhile.
class DeviceDesk {
 public:
  DeviceDesk();
  /// One for all controllers that live at a time, or two of them would hand out the same device. Other
  /// programs know nothing of it; CUDA_VISIBLE_DEVICES tells each which devices are its own.
  static std::shared_ptr<DeviceDesk> acquire();

  /// What `work` does with the book. The devices are looked up the first time: a program that wants none
  /// never does.
  template <class Work>
  auto with_book(Work&& work) {
    const std::lock_guard lock(mutex_);
    if (!book_) book_.emplace(open_book());
    return std::forward<Work>(work)(*book_);
  }

 private:
  gpu::DeviceBook open_book() const;

  // As the environment said when this was made.
  const std::optional<std::string> fake_;     // tests, on machines without a GPU
  const std::optional<std::string> visible_;  // CUDA_VISIBLE_DEVICES
  std::mutex mutex_;
  std::optional<gpu::DeviceBook> book_;
};

}  // namespace forge::core
