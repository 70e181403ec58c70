#include "core/fork.h"

#include <forge/error.h>
#include <pthread.h>

#include <atomic>
#include <mutex>

namespace forge::core {
namespace {
std::atomic<bool> forked{false};
}

bool in_forked_child() { return forked.load(std::memory_order_relaxed); }

void require_no_fork() {
  if (in_forked_child())
    throw Stopped(
        "forge does not work in a forked child of the program that started it; exec first");
}

void watch_forks() {
  static std::once_flag once;
  std::call_once(once, [] {
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
  });
}

}  // namespace forge::core
