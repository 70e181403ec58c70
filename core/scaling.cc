// More and fewer replicas. There are as many units as there may ever be replicas; those that are not
// wanted rest. One that is no longer wanted takes nothing new, answers what belongs to it, and goes.
#include <algorithm>
#include <tuple>

#include "core/autoscaling_options.h"
#include "core/engine.h"
#include "core/fork.h"
#include "core/host.h"

namespace forge::core {
namespace {

/// Of changes that are remembered.
constexpr std::size_t kMostRecords = 100;

}  // namespace

std::size_t Engine::wanted() const {
  return static_cast<std::size_t>(
      std::count_if(units_.begin(), units_.end(), [](const auto& unit) { return unit->wanted; }));
}

void Engine::scale(int count) {
  require_no_fork();
  const std::string who = "service '" + launch_.name + "' ";
  Lock lock(mutex_);
  const auto [least, most] = replica_bounds(launch_.options);
  if (count < least || count > most) {
    throw InvalidArgument(who + "can have " + std::to_string(least) + " to " +
                          std::to_string(most) + " replicas, not " + std::to_string(count) +
                          "; start it with other min_replicas and max_replicas");
  }
  const Change change(*this, lock);
  scale_to(static_cast<std::size_t>(count), "asked for");
  std::vector<bool> asked_for;
  for (const auto& unit : units_) asked_for.push_back(unit->wanted);
  // A request may wake a replica meanwhile: that one is not waited for.
  const auto settled = [&](const auto& unit) {
    if (unit->wanted != asked_for[unit->idx]) return true;
    return unit->wanted
               ? unit->state == ReplicaState::healthy || unit->state == ReplicaState::quarantined
               : unit->state == ReplicaState::stopped;
  };
  const bool in_time =
      changed_.wait_until(lock, detail::from_now(launch_.options.start_timeout), [&] {
        return state_ != State::serving || std::all_of(units_.begin(), units_.end(), settled);
      });
  if (state_ != State::serving) throw Stopped(who + "was shut down while it was being scaled");
  for (const auto& unit : units_) {
    const bool died_since = in_time && unit->state != ReplicaState::quarantined;
    if (!unit->wanted || unit->state == ReplicaState::healthy || died_since) continue;
    throw Unavailable(name_of(*unit) + " of " + who + "did not come up (" + unit->failure +
                      "); those that did serve on");
  }
  for (const auto& unit : units_) {
    if (settled(unit)) continue;
    throw Unavailable(name_of(*unit) + " of " + who + "still has " + std::to_string(unit->load()) +
                      " calls after start_timeout; it leaves when they have ended (give their "
                      "endpoints an exec_timeout)");
  }
}

/// Those with the lowest numbers come first. Those go first that serve nobody, then those with the
/// fewest sessions, then those with the highest numbers.
void Engine::scale_to(std::size_t count, const std::string& reason) {
  const std::size_t before = wanted();
  if (count == before) return;
  const auto now = SteadyClock::now();
  ++scale_events_;
  scale_records_.push_back({now, before, count, reason});
  if (scale_records_.size() > kMostRecords) scale_records_.pop_front();
  if (autoscaler_) autoscaler_->changed(now);
  tell(LogLevel::info, "scaled", nullptr,
       "from " + std::to_string(before) + " to " + std::to_string(count) + " replicas: " + reason);
  for (std::size_t i = 0; i < units_.size() && wanted() < count; ++i) {
    if (!units_[i]->wanted) want(*units_[i]);
  }
  const auto worth = [&](const Unit& unit) {
    return std::tuple(unit.state == ReplicaState::healthy, sessions_.on(unit.idx),
                      -double(unit.idx));
  };
  while (wanted() > count) {
    Unit* least = nullptr;
    for (const auto& unit : units_) {
      if (unit->wanted && (least == nullptr || worth(*unit) < worth(*least))) least = unit.get();
    }
    dismiss(*least);
  }
}

void Engine::want(Unit& unit) {
  unit.wanted = true;
  unit.arriving = unit.state != ReplicaState::healthy;
  unit.history = {};
  update_healthy();  // it may not have gone yet; if it is about to, it comes back as after a death
  if (unit.state != ReplicaState::stopped) return;
  unit.state = ReplicaState::recovering;
  unit.failure = "it is starting";
  plan(unit, SteadyClock::now());
}

void Engine::dismiss(Unit& unit) {
  unit.wanted = false;
  update_healthy();
  leave(unit);
}

bool Engine::has_shares(const Unit& unit) {
  return std::any_of(unit.queue.begin(), unit.queue.end(), [](const replicas::Entry& entry) {
    return entry.home != replicas::kAnyReplica;
  });
}

/// If it is not wanted, and nothing is left that only it can do.
void Engine::leave(Unit& unit) {
  if (unit.wanted || unit.state == ReplicaState::stopped || has_shares(unit)) return;
  switch (unit.life->stage()) {
    case Stage::planned:
    case Stage::ended:
      park(unit);
      break;
    case Stage::spawning:
      fence(unit, FenceReason::called_off);
      break;
    case Stage::running:
      if (unit.state == ReplicaState::healthy) {
        drain_unit(unit);
      } else if (!unit.life->draining) {
        fence(unit, FenceReason::called_off);  // it is still coming up
      }
      break;
    case Stage::fenced:  // bury() follows
      break;
  }
}

void Engine::park(Unit& unit) {
  if (unit.life->stage() == Stage::planned) unit.life->enter(Stage::ended);
  move_queue(unit, true);
  unit.state = ReplicaState::stopped;
  unit.failure = "the service was scaled down";
  unit.version = next_version_ ? next_version_ : version_;
  unit.prepared.clear();
  leave_seats(unit);
  if (!healthy_.empty()) dispatch_waiting();
  wake_replica();
  changed_.notify_all();
}

/// Where all have been sent away, the first request calls one back. Later, and not here: whoever sends
/// replicas away may be about to send away that one, too.
void Engine::wake_replica() {
  const auto needed = [](const Engine& engine) {
    return !engine.waiting_.empty() && engine.state_ == State::serving && engine.wanted() == 0;
  };
  if (waking_ || !needed(*this)) return;
  waking_ = host_->watchdog().post([self = shared_from_this(), needed] {
    self->on_watchdog([engine = self.get(), needed](Lock&) {
      engine->waking_ = false;
      if (needed(*engine)) engine->scale_to(1, "woken by a request");
    });
  });
}

// ---- autoscaling

void Engine::autoscale_later() {  // on the watchdog thread
  host_->watchdog().at(SteadyClock::now() + kScalingPeriod, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->autoscale();
  });
}

void Engine::autoscale() {  // on the watchdog thread
  if (!launch_.options.autoscaling.policy) {
    on_watchdog([this](Lock&) { autoscale_by(std::nullopt); });
    return;
  }
  // The user's code: where it keeps nobody from seeing deaths, and without the lock.
  CallbackThread::post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->ask_policy();
  });
}

void Engine::ask_policy() {  // on the callback thread
  Lock lock(mutex_);
  if (state_ != State::serving) return;
  const ScalingInput input = scaling_input(metrics_now());
  lock.unlock();
  const ScalingDecision wish = Autoscaler::ask(*launch_.options.autoscaling.policy, input);
  lock.lock();
  autoscale_by(wish);
}

/// `wish`: the policy's, if there is one.
void Engine::autoscale_by(const std::optional<ScalingDecision>& wish) {
  if (state_ != State::serving) return;
  if (!rolling_) {  // while replicas are replaced, their number stays
    const ScalingDecision decision = autoscaler_->decide(scaling_input(metrics_now()), wish);
    scale_to(static_cast<std::size_t>(decision.replicas), decision.reason);
  }
  host_->watchdog().post([self = shared_from_this()] { self->autoscale_later(); });
}

ScalingInput Engine::scaling_input(const ServiceMetrics& metrics) const {
  ScalingInput input;
  const std::size_t waiting = unplaced();
  std::size_t queues = 0;
  std::size_t running = 0;
  for (const auto& unit : units_) {
    queues += queued(*unit);
    running += active(*unit);
    if (!unit->wanted) continue;
    const bool healthy = unit->state == ReplicaState::healthy;
    ++input.replicas;
    input.healthy += healthy;
    if (healthy) input.utilization_now += utilization(*unit);  // a sum, for now
    input.starting += !healthy && unit->arriving;
    input.quarantined += unit->state == ReplicaState::quarantined;
  }
  const auto [least, most] = replica_bounds(launch_.options);
  input.min_replicas = least;
  input.max_replicas = most;
  input.sessions = metrics.total_sessions;
  const auto window = launch_.options.autoscaling.look_back;
  input.queue_depth = metrics.get_avg_queue_depth(window);
  input.utilization = metrics.get_avg_capacity_utilization(window);
  input.request_rate = metrics.get_total_request_rate(window);
  input.recent_rate = metrics.get_total_request_rate(kRecentWindow);
  const int healthy = std::max(1, input.healthy);
  input.utilization_now /= healthy;
  input.ongoing = metrics.get_avg_ongoing(window);
  input.ongoing_now = static_cast<double>(waiting + queues + running);
  input.queue_depth_now = static_cast<double>(waiting + queues) / healthy;
  input.now = SteadyClock::now();
  return input;
}

}  // namespace forge::core
