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

/// How long the quarantine is that follows `before` others.
nanoseconds quarantine_for(const RestartPolicy& policy, std::uint32_t before) {
  nanoseconds time = std::min(policy.quarantine, policy.max_quarantine);
  for (std::uint32_t i = 0; i < before && time < policy.max_quarantine; ++i)
    time = time > policy.max_quarantine / 2 ? policy.max_quarantine : time * 2;
  return time;
}

/// Does it say that the program is broken?
bool counts(const Death& death) {
  return !death.from_outside &&
         (death.kind == DeathKind::in_setup || death.kind == DeathKind::idle);
}

/// Is the next life delayed, if it is not the first of a streak?
bool delays(const Death& death) {
  return death.kind == DeathKind::in_setup || death.kind == DeathKind::before_first_answer ||
         (death.kind == DeathKind::idle && !death.from_outside);
}

nanoseconds longest_delay(const RestartPolicy& policy, const Death& death) {
  if (death.from_outside) return std::min(policy.max_delay, policy.max_delay_outside);
  if (death.kind == DeathKind::before_first_answer)
    return std::min(policy.max_delay, policy.max_delay_call);
  return policy.max_delay;
}

}  // namespace

Decision on_exit(RestartHistory& history, const RestartPolicy& policy, Death death,
                 std::chrono::steady_clock::time_point now, double jitter) {
  const bool progress =
      death.kind == DeathKind::serving_after_answer || death.kind == DeathKind::requested;
  const bool was_up = death.kind != DeathKind::in_setup;
  const bool lived_long = was_up && now - history.last_restart > policy.window;
  if (progress || lived_long) history.streak = history.quarantines = 0;
  if (progress) history.counted_deaths.clear();
  std::erase_if(history.counted_deaths, [&](auto when) { return now - when > policy.window; });

  if (counts(death)) {
    history.counted_deaths.push_back(now);
    if (history.counted_deaths.size() > policy.max_deaths || history.quarantines > 0) {
      history.last_restart = now + quarantine_for(policy, history.quarantines++);
      return {Decision::Action::quarantine, history.last_restart};
    }
  }
  history.last_restart = now;
  if (delays(death)) {
    history.last_restart +=
        delay_for(policy, history.streak++, longest_delay(policy, death), jitter);
  }
  return {Decision::Action::restart, history.last_restart};
}

}  // namespace forge::replicas
