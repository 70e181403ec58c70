// Memory between two pages that nobody may touch: what leaves it ends the program, sanitizer or not.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "shm/control_file.h"
#include "shm/segment.h"

namespace forge::fuzz {

/// Made once and used for many inputs, as mapping costs more than most of them.
class GuardedMemory {
 public:
  /// A whole number of pages.
  explicit GuardedMemory(std::size_t size) : size_(size) {
    void* const all =
        ::mmap(nullptr, size + 2 * shm::kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bytes_ = static_cast<std::byte*>(all) + shm::kPage;
    if (all == MAP_FAILED || size % shm::kPage != 0 ||
        ::mprotect(bytes_, size, PROT_READ | PROT_WRITE) != 0)
      std::abort();
  }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  ~GuardedMemory() { ::munmap(bytes_ - shm::kPage, size_ + 2 * shm::kPage); }

  /// All zeros, as a fresh file is.
  shm::Segment fresh() {
    std::memset(bytes_, 0, size_);
    return shm::Segment::over({bytes_, size_});
  }
  std::byte* data() const { return bytes_; }
  template <class T>
  T& as() const {
    return *reinterpret_cast<T*>(bytes_);
  }

 private:
  std::size_t size_;
  std::byte* bytes_;
};

}  // namespace forge::fuzz
