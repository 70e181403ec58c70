// Sessions: where each sticks, and the order of its calls.
#include <algorithm>
#include <atomic>
#include <random>

#include "core/engine.h"
#include "core/fork.h"

namespace forge::core {
namespace {

/// Unlikely to meet an id that a user has chosen, or one of another run.
std::string new_prefix(const char* kind) {
  static const std::uint64_t run = std::random_device{}();
  static std::atomic<std::uint64_t> count{0};
  return std::string(kind) + "-" + std::to_string(run) + "-" +
         std::to_string(count.fetch_add(1, std::memory_order_relaxed) + 1);
}

const std::string& easy_ids() {
  static const std::string prefix = new_prefix("session") + "-";
  return prefix;
}

std::string new_id(const std::string& prefix) {
  static std::atomic<std::uint64_t> count{0};
  return prefix + std::to_string(count.fetch_add(1, std::memory_order_relaxed) + 1);
}

}  // namespace

/// In front of the ids of an engine's strict sessions: so that one that was forgotten is told from one
/// that never was, without keeping anything of it.
std::string Engine::new_strict_ids() { return new_prefix("strict") + "-"; }

std::uint64_t Engine::open_session(std::string_view id, bool strict) {
  // Nobody else gives such an id: there was a session of that name, and its state is gone.
  const bool forgotten = !strict && id.starts_with(strict_ids_) && sessions_.find(id) == 0;
  const std::uint64_t number = sessions_.open(id, strict || forgotten, SteadyClock::now());
  if (forgotten) sessions_.at(number).lost = true;
  if (next_eviction_ == SteadyTime::max()) {
    next_eviction_ = detail::from_now(launch_.options.session_idle_timeout);
    arm(next_eviction_);
  }
  return number;
}

std::string Engine::start_session(bool strict) {
  require_no_fork();
  std::string id = new_id(strict ? strict_ids_ : easy_ids());
  const Lock lock(mutex_);
  if (state_ != State::serving) {
    throw Stopped("service '" + launch_.name + "' has been shut down; it has no sessions any more");
  }
  open_session(id, strict);
  return id;
}

void Engine::terminate_session(std::string_view id) {
  const Lock lock(mutex_);
  sessions_.end(id);
}

Sessions::Map Engine::session_map() {
  const Lock lock(mutex_);
  return sessions_.map();
}

Unit* Engine::place_session(std::uint64_t session, Refusal& refusal) {
  SessionState& state = sessions_.at(session);
  if (std::exchange(state.lost, false)) {
    refusal =
        make_error({ErrorCode::session_lost,
                    "the state of session '" + state.id + "' of service '" + launch_.name +
                        "' is gone: its replica has died or left, or the session was ended or idle "
                        "for longer than session_idle_timeout; it goes on with the next call, so "
                        "bring its state back first"});
    return nullptr;
  }
  // Also while its replica is dying: what queues there moves in order when it has been buried.
  if (state.replica != kNoReplica) return units_[state.replica].get();
  Unit* best = nullptr;
  for (const forge::Replica& replica : healthy_) {
    Unit& unit = *units_[replica.idx];
    if (best == nullptr || unit.load() < best->load() ||
        (unit.load() == best->load() && sessions_.on(unit.idx) < sessions_.on(best->idx)))
      best = &unit;
  }
  if (best != nullptr) {
    sessions_.place(session, best->idx);
    load_changed(*best);
  }
  return best;
}

/// All calls of a session do, and of a fanout the share on the session's replica.
bool Engine::keeps_order(const replicas::Entry& entry) const {
  return entry.slot.session != 0 && (entry.home == replicas::kAnyReplica || entry.in_order);
}

/// Where calls interleave, only the first of a session's goes out; the others wait for their turn. All
/// wait while its state is being brought back, and behind those that wait already.
bool Engine::hold(replicas::Entry& entry, bool fresh) {
  const std::uint64_t session = entry.slot.session;
  if (!keeps_order(entry) || brings_back(entry)) return false;
  if (is_restoring(session)) {
    replicas::append(held_[session], entry);
    return true;
  }
  if (!fresh || (!interleaves_ && (held_.empty() || !held_.contains(session)))) return false;
  const auto [place, first] = held_.try_emplace(session);
  entry.leads = first;
  if (!first) replicas::append(place->second, entry);
  return !first;
}

/// How many calls its session holds already.
std::size_t Engine::behind(const replicas::Entry& entry) const {
  if (held_.empty()) return 0;
  const auto place = held_.find(entry.slot.session);
  return place == held_.end() ? 0 : place->second.size();
}

/// The session's call that was out is over: the next goes out, or all where they do not interleave. A
/// loop: thousands may be behind it, and all be refused.
void Engine::release_next(std::uint64_t session) {
  for (;;) {
    const auto place = held_.find(session);
    if (place == held_.end()) return;
    if (place->second.empty()) {
      held_.erase(place);
      return;
    }
    replicas::Entry& next = place->second.front();
    replicas::unlink(next);
    const bool leads = interleaves_ || brings_back(next) || shares_scattered(next);
    next.leads = leads;
    Refusal refusal = route_one(next, false);  // a fanout that has been spread is closed
    if (!refusal) {
      if (leads || is_restoring(session)) return;
      continue;
    }
    next.leads = false;  // on to the one behind it
    fail(next, std::move(refusal));
    close(next);
  }
}

/// A share stays with its replica, and the calls around it move on with their session: from then on one
/// queue does not keep their order.
bool Engine::shares_scattered(const replicas::Entry& entry) const {
  return keeps_order(entry) && sessions_.at(entry.slot.session).shares != 0;
}

/// The replica has died: what such sessions had in its queue is held, in order, as what it had been sent
/// (put_back) will be.
void Engine::hold_scattered(Unit& unit) {
  if (interleaves_) return;
  for (auto next = unit.queue.end(); next != unit.queue.begin();) {
    replicas::Entry& entry = *--next;
    if (!shares_scattered(entry)) continue;
    ++next;
    replicas::unlink(entry);
    put_back(unit, entry);
  }
  load_changed(unit);
}

/// They go on, one call at a time.
void Engine::release_scattered() {
  std::vector<std::uint64_t> sessions = std::exchange(scattered_, {});
  std::ranges::sort(sessions);
  sessions.erase(std::unique(sessions.begin(), sessions.end()), sessions.end());
  for (const std::uint64_t session : sessions) release_next(session);
}

void Engine::evict_sessions(SteadyTime now) {
  if (now >= next_eviction_) {
    const auto timeout = launch_.options.session_idle_timeout;
    // Looked at every eighth of the time, so one lives an eighth too long at most.
    next_eviction_ =
        sessions_.evict(now, timeout) ? detail::from_now(timeout / 8) : SteadyTime::max();
  }
  if (next_eviction_ != SteadyTime::max()) arm(next_eviction_);
}

}  // namespace forge::core
