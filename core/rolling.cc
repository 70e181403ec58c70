// Rolling replacement: one replica at a time finishes what it has, leaves, and comes back anew.
#include "core/engine.h"
#include "core/fork.h"
#include "core/host.h"

namespace forge::core {

void Engine::restart_replicas() {
  require_no_fork();
  Lock lock(mutex_);
  changed_.wait(lock, [&] { return !rolling_; });
  rolling_ = true;
  struct Done {
    Engine& engine;
    ~Done() {
      engine.rolling_ = false;
      engine.changed_.notify_all();
    }
  } done{*this};  // before the lock goes
  // Spares first, so that those which step in are new, too.
  for (const auto& unit : spares_) replace(lock, *unit);
  for (const auto& unit : units_) replace(lock, *unit);
}

void Engine::replace(Lock& lock, Unit& unit) {
  const auto ended = [&] { return state_ != State::serving; };
  const std::string name = name_of(unit) + " of service '" + launch_.name + "'";
  changed_.wait(lock, [&] {
    return ended() || unit.state == ReplicaState::healthy ||
           unit.state == ReplicaState::quarantined;
  });
  const std::uint64_t before = unit.incarnation;
  if (unit.state == ReplicaState::quarantined && !ended()) {
    unit.history = {};
    launch_replica(unit);
  } else if (!ended()) {
    drain_unit(unit);
  }
  changed_.wait(lock, [&] { return ended() || unit.incarnation > before; });
  const bool settled =
      changed_.wait_until(lock, detail::from_now(launch_.options.start_timeout), [&] {
        return ended() || unit.state == ReplicaState::healthy ||
               unit.state == ReplicaState::quarantined;
      });
  if (ended())
    throw Stopped("service '" + launch_.name + "' was shut down while its replicas were replaced");
  if (!settled || unit.state == ReplicaState::quarantined) {
    throw Unavailable(name + " did not come back (" + unit.failure +
                      "); those behind it were not replaced, and serve on");
  }
}

/// What has not been sent goes elsewhere; calls of sessions wait for the end of those before them.
void Engine::drain_unit(Unit& unit) {
  retire(unit);
  unit.life->draining = true;
  move_queue(unit, false);
  if (!healthy_.empty()) dispatch_waiting();
  if (unit.in_flight.empty()) send_stop(unit);
}

void Engine::move_queue(Unit& unit, bool sessions) {
  for (auto next = unit.queue.begin(); next != unit.queue.end();) {
    replicas::Entry& entry = *next++;
    if (entry.home != replicas::kAnyReplica || (entry.slot.session != 0 && !sessions)) continue;
    replicas::unlink(entry);
    entry.batch = 0;
    entry.replica = replicas::kAnyReplica;
    replicas::append(waiting_, entry);
  }
  load_changed(unit);
}

void Engine::send_stop(Unit& unit) {
  for (Rank& rank : unit.life->ranks) {
    if (!rank.alive || !rank.channel->has_room()) continue;
    shm::RequestSlot stop{};
    stop.kind = shm::RequestKind::stop;
    rank.channel->push(stop);
    rank.channel->wake_worker();
  }
}

}  // namespace forge::core
