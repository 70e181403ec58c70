#include "shm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

namespace forge::shm {
namespace {

// Own copy of the kernel's struct futex_waitv and flags (linux/futex.h since 5.16), so that older
// headers compile.
struct KernelWaitV {
  std::uint64_t value;
  std::uint64_t address;
  std::uint32_t flags;
  std::uint32_t reserved;
};
constexpr std::uint32_t kSize32 = 2;
constexpr std::uint32_t kPrivate = 128;

timespec to_timespec(SteadyTime time) {  // steady_clock is CLOCK_MONOTONIC on Linux
  const auto ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

}  // namespace

void futex_wait(const Word& word, std::uint32_t expected, std::optional<SteadyTime> until,
                Scope scope) {
  // WAIT_BITSET takes an absolute time, so a spurious wake does not stretch the wait.
  const int op = FUTEX_WAIT_BITSET | (scope == Scope::priv ? FUTEX_PRIVATE_FLAG : 0);
  timespec limit{};
  if (until) limit = to_timespec(*until);
  ::syscall(SYS_futex, &word, op, expected, until ? &limit : nullptr, nullptr,
            FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(const Word& word, int count, Scope scope) {
  const int op = FUTEX_WAKE | (scope == Scope::priv ? FUTEX_PRIVATE_FLAG : 0);
  ::syscall(SYS_futex, &word, op, count, nullptr, nullptr, 0);
}

void futex_wait_any(std::span<const WaitWord> words, std::optional<SteadyTime> until) {
  std::array<KernelWaitV, kMaxWaitWords> kernel;
  std::size_t count = 0;
  for (const WaitWord& word : words.first(std::min(words.size(), kMaxWaitWords))) {
    kernel[count++] = {word.expected, reinterpret_cast<std::uint64_t>(word.word),
                       kSize32 | (word.scope == Scope::priv ? kPrivate : 0), 0};
  }
  timespec limit{};
  if (until) limit = to_timespec(*until);
  ::syscall(SYS_futex_waitv, kernel.data(), count, 0, until ? &limit : nullptr, CLOCK_MONOTONIC);
}

bool has_futex_waitv() {
  static const bool available = [] {
    const char* forced = std::getenv("FORGE_NO_FUTEX_WAITV");
    if (forced != nullptr && std::string_view(forced) == "1") return false;
    // No words at all is EINVAL where the call exists. Elsewhere it is ENOSYS, or what a sandbox says.
    return ::syscall(SYS_futex_waitv, nullptr, 0, 0, nullptr, 0) == 0 || errno == EINVAL;
  }();
  return available;
}

}  // namespace forge::shm
