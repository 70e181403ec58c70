#include "bench/forge_bench/load.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "bench/forge_bench/text.h"

namespace forge::bench {

std::uint64_t LoadResult::failed() const {
  std::uint64_t count = 0;
  for (const auto& [code, errors_of_code] : errors) count += errors_of_code;
  return count;
}

void LoadResult::merge(const LoadResult& other) {
  latency.merge(other.latency);
  seconds += other.seconds;
  sent += other.sent;
  answered += other.answered;
  wrong += other.wrong;
  for (const auto& [code, count] : other.errors) errors[code] += count;
  if (first_error.empty()) first_error = other.first_error;
}

namespace detail {
namespace {

struct Totals {
  std::uint64_t sent = 0;
  std::uint64_t done = 0;
  bool finished = true;
};

Totals add_up(const std::vector<Progress>& progress) {
  Totals totals;
  for (const Progress& client : progress) {
    totals.finished = client.finished.load(std::memory_order_acquire) && totals.finished;
    // Relaxed: counters to look at, nothing is concluded from them while clients run.
    totals.sent += client.sent.load(std::memory_order_relaxed);
    totals.done += client.done.load(std::memory_order_relaxed);
  }
  return totals;
}

[[noreturn]] void give_up(const Totals& totals) {
  // The clients cannot be joined: they wait for futures that do not complete.
  std::printf("answered exactly once: NO, %s of %s requests had no answer for %.0f s\n",
              with_commas(totals.sent - totals.done).c_str(), with_commas(totals.sent).c_str(),
              kStallSeconds);
  std::fflush(stdout);
  std::_Exit(1);  // workers die with us
}

}  // namespace

void watch(const LoadPlan& plan, const Phases& phases, const std::vector<Progress>& progress) {
  const bool show = !plan.title.empty() && ::isatty(STDERR_FILENO) == 1;
  const auto glance = std::chrono::milliseconds(show ? 200 : 20);
  std::uint64_t seen = 0;
  std::int64_t seen_at = now_ns();
  std::int64_t shown_at = seen_at;
  for (;;) {
    const Totals totals = add_up(progress);
    const std::int64_t now = now_ns();
    if (show) {
      const double rate = static_cast<double>(totals.done - seen) * 1e9 /
                          static_cast<double>(std::max<std::int64_t>(1, now - shown_at));
      const double left = static_cast<double>(std::max<std::int64_t>(0, phases.end_ns - now)) / 1e9;
      std::fprintf(stderr, "\r\033[K%s: %.1f s to go, %s answers, %s", plan.title.c_str(), left,
                   with_commas(totals.done).c_str(), format_rate(rate).c_str());
    }
    shown_at = now;
    if (totals.finished) break;
    if (totals.done != seen) {
      seen = totals.done;
      seen_at = now;
    }
    if (now - seen_at > static_cast<std::int64_t>(kStallSeconds * 1e9)) give_up(totals);
    // Not on a terminal: sleeps the run away instead of disturbing a core.
    const std::int64_t rest = phases.end_ns - now;
    if (!show && rest > 20'000'000 && plan.requests == 0) {
      std::this_thread::sleep_for(
          std::chrono::nanoseconds(std::min<std::int64_t>(rest, 1'000'000'000)));
    } else {
      std::this_thread::sleep_for(glance);
    }
  }
  if (show) std::fprintf(stderr, "\r\033[K");
}

}  // namespace detail
}  // namespace forge::bench
