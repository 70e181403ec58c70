// Sleeping and waking through futex words.
//
// The handshake, both ways (P publishes, S sleeps):
//     P: publish            S: parked = 1
//     P: fence              S: fence
//     P: if (parked) ring   S: if (nothing published) sleep(bell == seen)
// The two full fences forbid the one bad outcome: P reads parked == 0 *and* S sees nothing
// published (store-load reordering, Dekker). `seen` is read before parked is set, so a ring that
// falls between look and sleep changes the bell and the sleep returns at once.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>

namespace forge::shm {

using Word = std::atomic<std::uint32_t>;
using SteadyTime = std::chrono::steady_clock::time_point;

/// shared: the word lies in a segment; priv: only threads of this process use it (cheaper).
enum class Scope : std::uint32_t { shared, priv };

/// Sleeps while *word == expected, until woken or `until`. Spurious returns are allowed.
void futex_wait(const Word& word, std::uint32_t expected, std::optional<SteadyTime> until,
                Scope scope);

/// Wakes up to `count` sleepers on the word.
void futex_wake(const Word& word, int count, Scope scope);

struct WaitWord {
  const Word* word;
  std::uint32_t expected;
  Scope scope;
};

/// The most words futex_wait_any takes.
inline constexpr std::size_t kMaxWaitWords = 120;

/// Sleeps until any word differs from what is expected of it, a wake, or `until`. At most
/// kMaxWaitWords. Precondition: has_futex_waitv().
void futex_wait_any(std::span<const WaitWord> words, std::optional<SteadyTime> until);

/// Linux 5.16 and newer. Environment FORGE_NO_FUTEX_WAITV=1 forces false, so that the fallback can
/// be tested.
bool has_futex_waitv();

/// Rings a bell: changes the word, then wakes one sleeper.
inline void ring(Word& bell, Scope scope) {
  // Release pairs with the acquire of who reads the bell before it looks and sleeps: if it has heard
  // this ring, it sees what it is for. (In the handshake above the fences see to that.)
  bell.fetch_add(1, std::memory_order_release);
  futex_wake(bell, 1, scope);
}

/// The full fence of the handshake above.
inline void handshake_fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace forge::shm
