// Apart from the tests, so that no compiler inlines one half of a new and delete pair.
#include "tests/shm/count_allocations.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace forge::tests {

Allocations& allocations() {
  static constinit Allocations counts;
  return counts;
}

namespace {
void* allocate(std::size_t size, std::size_t alignment) {
  Allocations& counts = allocations();
  counts.count.fetch_add(1, std::memory_order_relaxed);
  std::size_t largest = counts.largest.load(std::memory_order_relaxed);
  while (largest < size && !counts.largest.compare_exchange_weak(largest, size)) continue;
  size = std::max<std::size_t>(size, 1);
  // aligned_alloc wants a size that is a multiple.
  void* memory = alignment == 0 ? std::malloc(size)
                                : std::aligned_alloc(
                                      alignment, (size + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}
}  // namespace
}  // namespace forge::tests

void* operator new(std::size_t size) { return forge::tests::allocate(size, 0); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return forge::tests::allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
