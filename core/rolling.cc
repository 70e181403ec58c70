// Rolling replacement: one replica at a time finishes what it has, leaves, and comes back anew.
#include <algorithm>

#include "core/engine.h"
#include "core/fork.h"
#include "core/host.h"

namespace forge::core {
namespace {
/// What a life may take longer than start_timeout until all of its workers have been reaped.
constexpr std::chrono::seconds kMargin{10};
}  // namespace

void Engine::restart_replicas() {
  require_no_fork();
  if (launch_.options.with_gpus)
    host_->devices().with_book([](gpu::DeviceBook& book) { book.pardon(); });
  roll([] { return nullptr; });
}

void Engine::update(const std::string& plugin, const replicas::ActorManifest& actor) {
  require_no_fork();
  roll([&] { return version_of(plugin, actor); });
}

/// What the service's workers would be with this plugin. Throws SignatureMismatch if somebody who uses
/// the service could notice.
VersionPtr Engine::version_of(const std::string& plugin, const replicas::ActorManifest& actor) {
  const std::string worker = host_->worker_path(plugin);
  const std::string who = "service '" + launch_.name + "' cannot be updated to '" + plugin + "': ";
  if (actor.constructor != actor_->constructor) {
    throw SignatureMismatch(who + "its actor '" + actor.name +
                            "' is constructed from other arguments; start a new service");
  }
  auto version = std::make_shared<Version>();
  for (std::size_t i = 0; i < actor_->endpoints.size(); ++i) {
    const auto& old = actor_->endpoints[i];
    const auto index = actor.index_of(old.name);
    const auto* const now = index ? &actor.endpoints[*index] : nullptr;
    const bool same = now != nullptr && now->signature == old.signature && now->kind == old.kind &&
                      now->coroutine == old.coroutine;
    version->offers.push_back(same);
    if (same || !bound_[i]) continue;
    const std::string what = detail::is_hidden(old.name) ? "its " + old.name.substr(1) + "() "
                                                         : "its endpoint '" + old.name + "' ";
    throw SignatureMismatch(who + what +
                            (now == nullptr ? "is missing"
                             : now->signature != old.signature
                                 ? "is " + now->signature + " instead of " + old.signature
                                 : "is registered in another way") +
                            ", and the service's is in use; start a new service");
  }
  version->plugin = plugin;
  version->build = actor.build;
  version->worker_path = worker;
  if (const Status status = make_setup(*version); !status.ok()) throw_status(status);
  return version;
}

Engine::Change::Change(Engine& of, Lock& lock) : engine_(of) {
  engine_.changed_.wait(lock,
                        [&] { return engine_.state_ != State::serving || !engine_.rolling_; });
  if (engine_.state_ != State::serving) {
    throw Stopped("service '" + engine_.launch_.name +
                  "' has been shut down; it has no replicas any more");
  }
  engine_.rolling_ = true;
}

Engine::Change::~Change() {
  engine_.rolling_ = false;
  engine_.next_version_ = nullptr;
  engine_.changed_.notify_all();
}

/// To another version, or (null) anew.
void Engine::roll(const std::function<VersionPtr()>& target) {
  Lock lock(mutex_);
  const Change change(*this, lock);
  const VersionPtr to = target();
  suspects_.clear();  // what they met may have been mended
  next_version_ = to;
  const std::string what = to ? "updated to '" + to->plugin + "'" : "replaced, one at a time";
  tell(LogLevel::info, "updating", nullptr, "its replicas are being " + what);
  // Spares first, so that those which step in are new, too.
  auto all = everyone();
  std::rotate(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(units_.size()), all.end());
  try {
    for (Unit* const unit : all) {
      if (to) unit->version = to;
      replace(lock, *unit);
    }
    // One that a request has called back meanwhile may have come up with the old version only.
    for (Unit* const unit : all) {
      if (!to || (unit->version == to && unit->life->version == to) || !unit->wanted) continue;
      unit->version = to;
      replace(lock, *unit);
    }
  } catch (const Error&) {
    if (to) roll_back(lock, to);
    tell(LogLevel::info, "updated", nullptr, "its replicas have not all been " + what);
    throw;
  }
  if (to) {
    version_ = to;
    for (Unit* const unit : all) unit->version = to;
  }
  tell(LogLevel::info, "updated", nullptr, "its replicas have been " + what);
}

/// Lives that are only planned begin with what their unit says then.
void Engine::roll_back(Lock& lock, const VersionPtr& from) {
  for (Unit* const unit : everyone()) {
    if (unit->version == from) unit->version = version_;
  }
  for (Unit* const unit : everyone()) {
    if (unit->life->version != from || state_ != State::serving) continue;
    try {
      if (unit->state == ReplicaState::healthy) {
        replace(lock, *unit);
      } else {
        fence(*unit, FenceReason::called_off);  // it still tries to come up
      }
    } catch (const Error& error) {
      host_->log(LogLevel::error, error.what());
    }
  }
}

void Engine::replace(Lock& lock, Unit& unit) {
  if (!unit.wanted) return;
  const std::string name = name_of(unit) + " of service '" + launch_.name + "'";
  const auto wait = [&](auto&& until) {
    // A life that does not come up in time ends by itself: that is seen first.
    const auto end = detail::from_now(launch_.options.start_timeout + kMargin);
    const bool in_time = changed_.wait_until(
        lock, end, [&] { return state_ != State::serving || !unit.wanted || until(); });
    if (state_ == State::serving) return in_time;
    throw Stopped("service '" + launch_.name + "' was shut down while its replicas were replaced");
  };
  // A life that is on its way comes up or ends; one that is planned begins now.
  if (!wait([&] { return unit.state == ReplicaState::healthy || !unit.life->has_workers(); })) {
    throw Unavailable(name + " did not come up (" + unit.failure +
                      "); it was not replaced, nor were those behind it");
  }
  const std::uint64_t before = unit.incarnation;
  unit.rejected.clear();
  if (!unit.wanted) return;
  if (unit.state == ReplicaState::healthy) {
    drain_unit(unit);
  } else {
    unit.history = {};
    plan(unit, SteadyClock::now());
  }
  const std::size_t running = unit.in_flight.size();
  if (!wait([&] { return unit.incarnation > before; })) {
    throw Unavailable(name + " still runs " + std::to_string(running) +
                      " calls after start_timeout; it is replaced when they have ended (give their "
                      "endpoints an exec_timeout); those behind it were not replaced");
  }
  const bool settled = wait([&] {
    return !unit.rejected.empty() || unit.state == ReplicaState::healthy ||
           unit.state == ReplicaState::quarantined;
  });
  if (!unit.wanted) return;
  if (!unit.rejected.empty()) {
    throw PluginError(name + " did not come up with '" + next_version_->plugin + "' (" +
                      unit.rejected + "); the service goes on with '" + version_->plugin + "'");
  }
  if (!settled || unit.state != ReplicaState::healthy) {
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
    if (entry.purpose != replicas::Purpose::call) {  // its session will be brought back elsewhere
      drop(entry, nullptr);
      continue;
    }
    replicas::unlink(entry);
    entry.batch = 0;
    entry.replica = replicas::kAnyReplica;
    replicas::append(waiting_, entry);
  }
  load_changed(unit);
}

void Engine::send_stop(Unit& unit) {
  unit.life->asked_to_stop = true;
  if (next_pulse_ == SteadyTime::max()) begin_pulse();  // it is watched until it has ended
  for (Rank& rank : unit.life->ranks) {
    if (!rank.alive || !rank.channel->has_room()) continue;
    shm::RequestSlot stop{};
    stop.kind = shm::RequestKind::stop;
    rank.channel->push(stop);
    rank.channel->wake_worker();
  }
}

}  // namespace forge::core
