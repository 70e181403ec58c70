#include "shm/failpoint.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace forge::shm {
namespace {

/// Null in a process that no test has handed one.
FailTrigger* find_trigger() {
  const char* const path = std::getenv(FailTrigger::kVariable);  // NOLINT(concurrency-mt-unsafe)
  if (path == nullptr) return nullptr;
  const int fd = ::open(path, O_RDWR | O_CLOEXEC);
  void* const memory =
      fd < 0 ? MAP_FAILED
             : ::mmap(nullptr, sizeof(FailTrigger), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    std::perror("forge: $FORGE_FAILPOINTS");
    std::abort();
  }
  ::close(fd);
  return static_cast<FailTrigger*>(memory);
}

void act(FailAction action) {
  switch (action) {
    case FailAction::kill:
      ::raise(SIGKILL);
      break;
    case FailAction::segfault:
      ::raise(SIGSEGV);
      break;
    case FailAction::abort:
      std::abort();
    case FailAction::stop:
      ::kill(::getpid(), SIGSTOP);  // all threads
      break;
    case FailAction::raise:
      throw std::runtime_error("a failpoint threw");
  }
}

}  // namespace

void reach(Failpoint point) {
  static FailTrigger* const trigger = find_trigger();
  if (trigger == nullptr) return;
  std::uint64_t shot = trigger->shot.load(std::memory_order_relaxed);
  for (;;) {
    if ((shot & 0xFF) != static_cast<std::uint64_t>(point)) return;
    const std::uint64_t hits = shot >> 16;
    const std::uint64_t left = hits > 1 ? (hits - 1) << 16 | (shot & 0xFFFF) : 0;
    if (!trigger->shot.compare_exchange_weak(shot, left, std::memory_order_relaxed)) continue;
    if (left == 0) act(static_cast<FailAction>(shot >> 8 & 0xFF));
    return;
  }
}

}  // namespace forge::shm
