// Counts heap allocations of this process: malloc and its relatives, and so operator new, in every
// library and thread.
#pragma once

#include <cstdint>

namespace forge::bench {

/// False in builds whose allocator belongs to a sanitizer.
bool can_count_allocations();

/// Counts while it lives. One at a time.
class AllocationCount {
 public:
  AllocationCount();
  AllocationCount(const AllocationCount&) = delete;
  AllocationCount& operator=(const AllocationCount&) = delete;
  ~AllocationCount();

  std::uint64_t total() const;  ///< by all threads
  std::uint64_t by_this_thread() const;
};

}  // namespace forge::bench
