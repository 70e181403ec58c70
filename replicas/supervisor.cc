#include "replicas/supervisor.h"

#include <algorithm>

namespace forge::replicas {
namespace {

using std::chrono::nanoseconds;

/// `streak` 0 is the first death: at once. 1 waits `first_delay`, each further one twice as long.
nanoseconds delay_for(const RestartPolicy& policy, std::uint32_t streak, nanoseconds longest,
                      double jitter) {
  if (streak == 0) return nanoseconds::zero();
  nanoseconds delay = std::min(policy.first_delay, longest);
  // Compared before doubling, so nothing overflows however long the streak.
  for (std::uint32_t i = 1; i < streak && delay < longest; ++i) {
    delay = delay > longest / 2 ? longest : delay * 2;
  }
  const double shorter = static_cast<double>(delay.count()) * jitter / 4;
  return delay - nanoseconds(static_cast<nanoseconds::rep>(shorter));
}

}  // namespace

Decision on_exit(RestartHistory& history, const RestartPolicy& policy, Death death,
                 std::chrono::steady_clock::time_point now, double jitter) {
  const bool progress = death.kind == DeathKind::serving_after_answer;
  const bool was_up = death.kind != DeathKind::in_setup;
  const bool lived_long = was_up && now - history.last_restart > policy.window;
  const bool blameless = death.kind == DeathKind::by_poison || death.kind == DeathKind::device_lost;
  const bool barren =
      !progress && !blameless && !(death.from_outside && death.kind == DeathKind::idle);
  if (progress || lived_long) history.streak = 0;
  if (progress) history.barren_deaths.clear();
  std::erase_if(history.barren_deaths, [&](auto when) { return now - when > policy.window; });

  if (barren && !death.from_outside) {
    history.barren_deaths.push_back(now);
    if (history.barren_deaths.size() > policy.max_deaths) return {Decision::Action::quarantine, {}};
  }
  const nanoseconds longest =
      death.from_outside ? std::min(policy.max_delay, policy.max_delay_outside) : policy.max_delay;
  history.last_restart = now;
  if (barren) history.last_restart += delay_for(policy, history.streak++, longest, jitter);
  return {Decision::Action::restart, history.last_restart};
}

}  // namespace forge::replicas
