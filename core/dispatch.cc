// Where a call goes and when: routing, the way into the rings, batches, cancelling, deadlines. Fanouts
// are in fanout.cc, the order of sessions in turns.cc.
#include "core/batching.h"
#include "core/cancel.h"
#include "core/engine.h"
#include "core/fork.h"
#include "core/host.h"
#include "core/router_scope.h"
#include "shm/clock.h"

namespace forge::core {
namespace {

/// Calls that ranks in lockstep have at once. Few: only the controller may skip one whose deadline
/// has passed (ranks might see different times), and it can only before it sends it.
constexpr std::size_t kLockstepWindow = 4;

}  // namespace

// ---- routing

Refusal Engine::route_one(replicas::Entry& entry, bool fresh) {
  if (entry.home != replicas::kAnyReplica) return route_share(entry);
  Refusal refusal;
  if (entry.spreads && fresh) refusal = check_awake(entry);
  if (refusal) return refusal;
  if (batches(entry) && !healthy_.empty()) {
    if (fresh) refusal = check_room_anywhere(entry);
    if (!refusal) collect(entry);
    return refusal;
  }
  const bool anywhere = entry.spreads && entry.slot.session == 0;
  Unit* const unit = anywhere ? nullptr : choose(entry, refusal);
  if (unit == nullptr && healthy_.empty() && !refusal) refusal = check_hope();
  // The shares of a fanout look for room by themselves, unless it has to wait as a whole.
  const std::size_t ahead = behind(entry);
  if (unit != nullptr && fresh && (!entry.spreads || ahead != 0))
    refusal = check_room(entry, *unit, ahead);
  if (refusal) return refusal;
  if (unit != nullptr && is_away(entry)) return bring_back(entry);
  if (hold(entry, fresh)) return {};
  // A fanout follows its session: where that is about to move, it moves along.
  const bool here = unit != nullptr && !(entry.spreads && unit->state == ReplicaState::healthy);
  if (here) {
    enqueue(entry, *unit);
  } else if (entry.spreads && !healthy_.empty()) {
    spread(entry, fresh);
  } else {
    replicas::append(waiting_, entry);
    wake_replica();
  }
  return {};
}

/// Nobody is healthy: why there is no use in waiting.
Refusal Engine::check_hope() const {
  // While we shut down nobody comes back either, but that is what callers are to be told.
  if (state_ != State::serving || anything_can_come_back()) return {};
  const std::string reason = units_[0]->failure.empty() ? "" : " (" + units_[0]->failure + ")";
  return make_error({ErrorCode::unavailable, "no replica of service '" + launch_.name +
                                                 "' can come back now" + reason +
                                                 "; mend it and call restart_replicas(), or "
                                                 "wait until it is tried again"});
}

Unit* Engine::choose(const replicas::Entry& entry, Refusal& refusal) {
  if (entry.slot.session != 0) return place_session(entry.slot.session, refusal);
  if (healthy_.empty()) return nullptr;
  Router& router = *routers_[entry.slot.endpoint];
  const std::string& name = actor_->endpoints[entry.slot.endpoint].name;
  const auto refuse = [&](ErrorCode code, const std::string& text) {
    refusal = make_error({code, "the router of endpoint '" + name + "' " + text});
    return nullptr;
  };
  try {
    const RouterScope scope;
    if (router.wants_load()) refresh_load();
    const forge::Replica& chosen =
        router.get_replica(healthy_, {name, {}, sessions_.map(), entry.key});
    if (&chosen < healthy_.data() || &chosen >= healthy_.data() + healthy_.size()) {
      return refuse(ErrorCode::invalid_argument,
                    "returned a replica that is not an element of `healthy`");
    }
    return units_[chosen.idx].get();
  } catch (const Error& error) {  // keeps its class
    return refuse(error.error_code(), std::string("refused: ") + error.what());
  } catch (const std::exception& error) {
    return refuse(ErrorCode::invalid_argument, std::string("threw: ") + error.what());
  } catch (...) {
    return refuse(ErrorCode::invalid_argument, "threw something that is no exception");
  }
}

Refusal Engine::check_room(const replicas::Entry& entry, Unit& unit, std::size_t behind) {
  const auto limit = static_cast<std::size_t>(launch_.options.max_queued_requests +
                                              launch_.options.replica_max_concurrent_requests);
  // A call with a deadline waits for room until then: in the queue, beyond the limit.
  if (unit.load() + behind < limit || entry.slot.deadline_ns != 0) return {};
  ++unit.meter.rejected;
  return make_error({ErrorCode::backpressure,
                     "replica " + std::to_string(unit.idx) + " of service '" + launch_.name +
                         "' has " + std::to_string(unit.load() + behind) +
                         " requests (max_queued_requests " +
                         std::to_string(launch_.options.max_queued_requests) +
                         "); slow down, add replicas, or give calls a timeout to wait for room"});
}

Refusal Engine::check_room_anywhere(const replicas::Entry& entry) {
  Refusal refusal;
  for (const forge::Replica& replica : healthy_) {
    refusal = check_room(entry, *units_[replica.idx]);
    if (!refusal) return refusal;
  }
  return refusal;
}

void Engine::enqueue(replicas::Entry& entry, Unit& unit) {
  if (unit.queue.empty() && entry.batch == 0 && can_send(entry, unit, 1)) {
    send(entry, unit);
    return;
  }
  queue_up(entry, unit);
}

void Engine::queue_up(replicas::Entry& entry, Unit& unit) {
  entry.replica = unit.idx;
  replicas::append(unit.queue, entry);
  load_changed(unit);
}

bool Engine::can_send(const replicas::Entry& entry, Unit& unit, std::size_t count) const {
  if (unit.state != ReplicaState::healthy && entry.slot.kind != shm::RequestKind::setup)
    return false;
  if (overlaps_ && wants_solitude(entry, unit)) return false;
  if (procs_ > 1 && !unit.in_flight.empty() && unit.in_flight.size() + count > kLockstepWindow)
    return false;
  if (entry.rank != replicas::kAllRanks) return unit.life->ranks[entry.rank].channel->has_room();
  for (const Rank& rank : unit.life->ranks) {
    if (!rank.channel->has_room(count)) return false;
  }
  return true;
}

/// A call that may have killed a worker runs by itself, so that its next death is nobody else's. Where
/// calls do not overlap, each does.
bool Engine::wants_solitude(const replicas::Entry& entry, const Unit& unit) const {
  return !unit.in_flight.empty() && (entry.deaths != 0 || unit.in_flight.front().deaths != 0);
}

void Engine::send(replicas::Entry& entry, Unit& unit) {
  expect_answers();
  entry.slot.batch = 1;
  stage(entry, unit);
  commit(entry.rank, unit);
}

void Engine::stage(replicas::Entry& entry, Unit& unit) {
  const bool all = entry.rank == replicas::kAllRanks;
  ledger_.sent(entry, unit.idx, unit.incarnation, all ? procs_ : 1);
  entry.slot.lockstep = all ? ++unit.life->lockstep_calls : 0;
  // Nothing can fail from here on, and only this process takes a call back: it enters all rings or,
  // above, none.
  for (std::uint32_t rank = all ? 0 : entry.rank; rank < (all ? procs_ : entry.rank + 1); ++rank) {
    entry.positions.push_back(unit.life->ranks[rank].channel->stage(entry.slot));
  }
  replicas::append(unit.in_flight, entry);
  load_changed(unit);
  if (entry.called_ns != 0) entry.sent_ns = shm::now_ns();
  ++outstanding_;
}

void Engine::commit(std::uint32_t rank, Unit& unit) {
  const bool all = rank == replicas::kAllRanks;
  const std::uint32_t end = all ? procs_ : rank + 1;
  for (std::uint32_t i = all ? 0 : rank; i < end; ++i) unit.life->ranks[i].channel->commit();
  for (std::uint32_t i = all ? 0 : rank; i < end; ++i) unit.life->ranks[i].channel->wake_worker();
}

void Engine::pump(Unit& unit) {
  while (!unit.queue.empty()) {
    replicas::Entry& first = unit.queue.front();
    if (first.spreads) {
      if (unit.state != ReplicaState::healthy) return;
      replicas::unlink(first);
      load_changed(unit);
      first.replica = replicas::kAnyReplica;
      go_on(first);
      continue;
    }
    std::uint32_t count = 1;  // what has been dropped meanwhile has left no gap in the queue
    if (first.batch != 0) {
      for (auto next = std::next(unit.queue.begin());
           next != unit.queue.end() && next->batch == first.batch; ++next)
        ++count;
    }
    if (!can_send(first, unit, count)) return;
    expect_answers();
    for (std::uint32_t i = 0; i < count; ++i) {
      replicas::Entry& entry = unit.queue.front();
      replicas::unlink(entry);
      entry.slot.batch = i == 0 ? count : 0;
      stage(entry, unit);
    }
    commit(first.rank, unit);
  }
}

// ---- batches

bool Engine::batches(const replicas::Entry& entry) const {
  return !entry.alone && !entry.spreads && entry.home == replicas::kAnyReplica &&
         entry.slot.session == 0 && actor_->endpoints[entry.slot.endpoint].options.batch_size > 1;
}

void Engine::collect(replicas::Entry& entry) {
  const std::size_t endpoint = entry.slot.endpoint;
  const EndpointOptions& options = actor_->endpoints[endpoint].options;
  Forming& forming = forming_[endpoint];
  replicas::append(forming.entries, entry);
  const bool first = forming.entries.size() == 1;
  if (first) forming.first = SteadyClock::now();
  // That time has passed is for flush_due() to see: most calls need no clock.
  if (batch_leaves(options, forming.entries.size(), forming.first, forming.first)) {
    flush(endpoint);
  } else if (first) {
    arm(batch_due(options, forming.first));
  }
}

void Engine::flush(std::size_t endpoint) {
  forming_[endpoint].waited = false;
  replicas::EntryList& entries = forming_[endpoint].entries;
  if (entries.empty()) return;
  Refusal refusal;
  Unit* const unit = choose(entries.front(), refusal);
  if (unit == nullptr && !refusal) refusal = check_hope();
  if (slabs_[endpoint].used) put_in_order(endpoint);
  // Endpoints that take one call at a time are only routed together.
  const bool as_one = actor_->endpoints[endpoint].kind == EndpointKind::batched;
  const std::uint64_t batch = as_one ? ++last_batch_ : 0;
  count_batch(endpoint_metrics_[endpoint].batch_sizes, entries.size());
  if (unit != nullptr) count_batch(unit->meter.batch_sizes, entries.size());
  std::int64_t now = 0;
  while (!entries.empty()) {
    replicas::Entry& entry = entries.front();
    if (refusal) {
      drop(entry, refusal);
      continue;
    }
    replicas::unlink(entry);
    entry.batch = batch;
    if (entry.called_ns != 0) entry.left_ns = now != 0 ? now : now = shm::now_ns();
    if (unit == nullptr) {
      replicas::append(waiting_, entry);
    } else {
      queue_up(entry, *unit);
    }
  }
  if (unit != nullptr) {
    pump(*unit);
  } else {
    wake_replica();
  }
}

/// Rows adjoin if their calls are in the order of their rows, whoever made them first.
void Engine::put_in_order(std::size_t endpoint) {
  const auto row = [](const replicas::Entry& entry) {
    const auto& residents = static_cast<const Payload*>(entry.payload)->residents;
    return residents.empty() ? nullptr : residents.front().bytes().data();
  };
  replicas::EntryList& entries = forming_[endpoint].entries;
  entries.sort([&](const auto& a, const auto& b) { return std::less<>{}(row(a), row(b)); });
  // A batch that was not full, or had rows of two slabs, shifts all that follow: the next row handed
  // out begins a slab again.
  Tensor& slab = slabs_[endpoint].memory;
  const std::byte* const first = row(entries.front());
  const std::size_t span = slab.byte_count();
  const bool together = first != nullptr && row(entries.back()) < first + span;
  const int full = actor_->endpoints[endpoint].options.batch_size;
  if (!together || entries.size() < static_cast<std::size_t>(full)) slab = Tensor();
}

void Engine::flush_due(SteadyTime now) {
  for (std::size_t endpoint = 0; endpoint < forming_.size(); ++endpoint) {
    Forming& forming = forming_[endpoint];
    if (forming.entries.empty()) continue;
    const EndpointOptions& options = actor_->endpoints[endpoint].options;
    if (forming.waited || batch_leaves(options, forming.entries.size(), forming.first, now)) {
      flush(endpoint);
    } else {
      arm(batch_due(options, forming.first));
    }
  }
}

void Engine::arm(SteadyTime at) {
  const std::int64_t at_ns = shm::to_ns(at);
  if (at_ns >= next_deadline_.load(std::memory_order_relaxed)) return;
  next_deadline_.store(at_ns, std::memory_order_relaxed);
  host_->engine_thread().wake_before(at_ns);
}

void Engine::dispatch_waiting() {
  for (std::size_t count = waiting_.size(); count > 0; --count) {
    replicas::Entry& entry = waiting_.front();
    replicas::unlink(entry);
    Forming* const forming = batches(entry) ? &forming_[entry.slot.endpoint] : nullptr;
    go_on(entry);
    if (forming != nullptr) forming->waited = !forming->entries.empty();
  }
  flush_due(SteadyClock::now());
}

/// What has waited is routed; if it is refused, it has ended.
void Engine::go_on(replicas::Entry& entry) {
  Refusal refusal = route_one(entry, false);
  if (!refusal) return;
  fail(entry, std::move(refusal));
  close(entry);
}

bool Engine::anything_can_come_back() const {
  for (const auto& unit : units_) {
    if (unit->state != ReplicaState::quarantined && unit->state != ReplicaState::stopped)
      return true;
  }
  return wanted() == 0;  // a request wakes one
}

// ---- cancelling

void Engine::make_cancellable(replicas::Entry& entry, std::uint64_t source) {
  const auto state = CancelState::find(source);
  if (!state) return;
  entry.cancel = source;
  state->add(weak_from_this(), entry.slot.id);
}

void Engine::cancel(shm::RequestId request) {
  const Lock lock(mutex_);
  was_cancelled(request);
}

void Engine::was_cancelled(shm::RequestId request) {
  replicas::Entry* const entry = ledger_.find(request);
  if (entry == nullptr || entry->call == nullptr) return;
  const bool queued = entry->state == replicas::EntryState::queued;
  if (!queued) {
    entry->marked = true;
    arena_->mark_cancelled(request, true);
  }
  const char* const how = !queued                 ? " was cancelled; it may still run"
                          : entry->executions > 0 ? " was cancelled before it ran again"
                                                  : " was cancelled before it started";
  give_up(*entry, make_error({ErrorCode::cancelled, where(*entry) + how}));
}

/// Nobody waits for it any more. What a worker has stays until it lets go of the payload.
void Engine::give_up(replicas::Entry& entry, Refusal why) {
  if (entry.state == replicas::EntryState::queued) {
    drop(entry, std::move(why));
  } else {
    fail(entry, std::move(why));
  }
}

// ---- deadlines

void Engine::set_deadline(replicas::Entry& entry, SteadyTime at) {
  entry.slot.deadline_ns = shm::to_ns(at);
  if (deadlines_.size() > 1024 && deadlines_.size() > 2 * ledger_.open_entries()) {
    decltype(deadlines_) live;  // most belong to calls that have long been answered
    for (; !deadlines_.empty(); deadlines_.pop()) {
      if (ledger_.find(shm::unpacked(deadlines_.top().second)) != nullptr)
        live.push(deadlines_.top());
    }
    deadlines_ = std::move(live);
  }
  deadlines_.emplace(entry.slot.deadline_ns, shm::packed(entry.slot.id));
  arm(at);
}

Refusal Engine::not_started_in_time(const replicas::Entry& entry) const {
  return make_error({ErrorCode::deadline_exceeded,
                     where(entry) +
                         (entry.executions > 0 ? " was not run again" : " was not started") +
                         " before its deadline; raise the timeout or add replicas"});
}

Refusal Engine::not_answered_in_time(const replicas::Entry& entry) const {
  return make_error({ErrorCode::deadline_exceeded,
                     where(entry) +
                         " was not answered before its deadline; it may still run; raise the "
                         "timeout or add replicas"});
}

void Engine::expire(SteadyTime now) {
  const auto now_ns = shm::to_ns(now);
  for (; !deadlines_.empty() && deadlines_.top().first <= now_ns; deadlines_.pop()) {
    replicas::Entry* entry = ledger_.find(shm::unpacked(deadlines_.top().second));
    // The time as well: an id comes back after 2^32 uses of its entry.
    if (entry == nullptr || entry->slot.deadline_ns != deadlines_.top().first) continue;
    const bool queued = entry->state == replicas::EntryState::queued;
    give_up(*entry, queued ? not_started_in_time(*entry) : not_answered_in_time(*entry));
  }
  next_deadline_.store(deadlines_.empty() ? INT64_MAX : deadlines_.top().first,
                       std::memory_order_relaxed);
  flush_due(now);
  evict_sessions(now);
  pulse(now);
  serve_room();
}

std::optional<SteadyTime> Engine::next_deadline() {
  const std::int64_t at = next_deadline_.load(std::memory_order_relaxed);
  if (at == INT64_MAX) return std::nullopt;
  return SteadyTime(std::chrono::nanoseconds(at));
}

}  // namespace forge::core
