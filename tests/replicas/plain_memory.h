// Control files and arenas in the test's own memory, so that sanitizers see every access to them.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>

#include "shm/control_file.h"
#include "shm/segment.h"

namespace forge::tests {

/// Zeros that begin on a page, as a fresh memfd has them, and end where a sanitizer sees it.
class PlainMemory {
 public:
  explicit PlainMemory(std::size_t size)
      : size_(size), bytes_(static_cast<std::byte*>(std::aligned_alloc(shm::kPage, size))) {
    if (!bytes_) throw std::bad_alloc();
    std::memset(bytes_.get(), 0, size);
  }
  shm::Segment segment() const { return shm::Segment::over({bytes_.get(), size_}); }
  std::byte* data() const { return bytes_.get(); }
  std::size_t size() const { return size_; }
  template <class T>
  T& as() const {
    return *reinterpret_cast<T*>(bytes_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::size_t size_;
  std::unique_ptr<std::byte, Free> bytes_;
};

}  // namespace forge::tests
