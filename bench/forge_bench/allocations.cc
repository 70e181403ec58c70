#include "bench/forge_bench/allocations.h"

#include <atomic>
#include <cerrno>
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FORGE_BENCH_OWN_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FORGE_BENCH_OWN_MALLOC 0
#endif
#endif
#if !defined(FORGE_BENCH_OWN_MALLOC) && defined(__GLIBC__)
#define FORGE_BENCH_OWN_MALLOC 1
#elif !defined(FORGE_BENCH_OWN_MALLOC)
#define FORGE_BENCH_OWN_MALLOC 0
#endif

namespace forge::bench {
namespace {

std::atomic<bool> counting{false};
std::atomic<std::uint64_t> all_threads{0};
thread_local std::uint64_t this_thread = 0;

}  // namespace

bool can_count_allocations() { return FORGE_BENCH_OWN_MALLOC == 1; }

AllocationCount::AllocationCount() {
  all_threads.store(0, std::memory_order_relaxed);
  this_thread = 0;
  counting.store(true, std::memory_order_relaxed);
}
AllocationCount::~AllocationCount() { counting.store(false, std::memory_order_relaxed); }
// Relaxed: only counts.
std::uint64_t AllocationCount::total() const { return all_threads.load(std::memory_order_relaxed); }
std::uint64_t AllocationCount::by_this_thread() const { return this_thread; }

}  // namespace forge::bench

#if FORGE_BENCH_OWN_MALLOC
namespace {
void count() {
  if (!forge::bench::counting.load(std::memory_order_relaxed)) return;
  forge::bench::all_threads.fetch_add(1, std::memory_order_relaxed);
  ++forge::bench::this_thread;
}
}  // namespace

// The program's definitions come before the C library's for every library it loads. They count and
// hand on to glibc's own names, so memory goes back through glibc's free() as ever.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) {
  count();
  return __libc_malloc(size);
}
void* calloc(std::size_t number, std::size_t size) {
  count();
  return __libc_calloc(number, size);
}
void* realloc(void* old, std::size_t size) {
  count();
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  count();
  void* memory = __libc_memalign(alignment, size);
  if (memory == nullptr) return ENOMEM;
  *out = memory;
  return 0;
}
}
#endif
