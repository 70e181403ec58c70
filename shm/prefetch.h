// Hints to the cache. A line that another core has read must be taken back before it can be written,
// which costs a trip to that core; asked for early, it costs nothing.
#pragma once

#include <cstddef>

namespace forge::shm {

inline constexpr std::size_t kCacheLine = 64;

/// Soon to be written by this core.
inline void prefetch_for_write(const void* memory, std::size_t bytes = kCacheLine) {
  const auto* first = static_cast<const char*>(memory);
  for (std::size_t at = 0; at < bytes; at += kCacheLine) {
#if defined(__x86_64__)
    // __builtin_prefetch makes a plain one of it; processors without this one take it for a no-op.
    asm volatile("prefetchw %0" : : "m"(first[at]));
#else
    __builtin_prefetch(first + at, 1);
#endif
  }
}

/// Soon to be read by this core.
inline void prefetch_for_read(const void* memory, std::size_t bytes = kCacheLine) {
  const auto* first = static_cast<const char*>(memory);
  for (std::size_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(first + at);
}

}  // namespace forge::shm
