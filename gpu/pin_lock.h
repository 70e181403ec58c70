// PinLock: of the processes that pin the same shared memory, one does at a time. Registering it in
// several at once has failed for want of memory that was there.
#pragma once

#include <forge/result.h>

#include <chrono>

#include "shm/file_descriptor.h"

namespace forge::gpu {

class PinLock {
 public:
  /// Waits for its turn; a process that dies ends its own. `file` is any descriptor of the memory.
  /// Errors: Unavailable after `timeout`, or if the file cannot be locked.
  static Result<PinLock> take(int file, std::chrono::nanoseconds timeout);

 private:
  explicit PinLock(shm::FileDescriptor file) : file_(std::move(file)) {}

  shm::FileDescriptor file_;  // closing it unlocks
};

}  // namespace forge::gpu
