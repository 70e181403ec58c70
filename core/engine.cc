// The way out: a call is admitted, its payload placed, a replica chosen, a descriptor pushed.
#include "core/engine.h"

#include <cstring>

#include "core/cancel.h"
#include "core/fork.h"
#include "core/host.h"

namespace forge::core {
namespace {

/// Copies larger than this are made without the lock.
constexpr std::size_t kCopyUnlocked = 16 * 1024;

/// Calls that ranks in lockstep have at once. Few: only the controller may skip one whose deadline
/// has passed (ranks might see different times), and it can only before it sends it.
constexpr std::size_t kLockstepWindow = 4;

std::uint64_t pack(shm::RequestId id) { return std::uint64_t{id.generation} << 32 | id.entry; }
shm::RequestId unpack(std::uint64_t id) {
  return {static_cast<std::uint32_t>(id), static_cast<std::uint32_t>(id >> 32)};
}

}  // namespace

Result<std::shared_ptr<Engine>> Engine::create(std::shared_ptr<Host> host, Launch launch) {
  auto arena = Arena::create(launch.name, launch.options.arena_bytes);
  if (!arena) return arena.error_ptr();
  auto engine =
      std::shared_ptr<Engine>(new Engine(std::move(host), std::move(launch), std::move(*arena)));
  if (engine->launch_.manifest) {
    engine->actor_ = engine->launch_.manifest->find(engine->launch_.actor);
    for (const auto& endpoint : engine->actor_->endpoints) {
      if (endpoint.options.batch_size <= static_cast<int>(shm::kWindow)) continue;
      return make_error(
          {ErrorCode::invalid_argument, "endpoint '" + endpoint.name + "' wants batches of " +
                                            std::to_string(endpoint.options.batch_size) +
                                            "; the most is " + std::to_string(shm::kWindow)});
    }
    engine->forming_ = std::vector<Forming>(engine->actor_->endpoints.size());
    engine->routers_ = engine->host_->make_routers(*engine->actor_, engine->launch_.options);
  }
  return engine;
}

Engine::Engine(std::shared_ptr<Host> host, Launch launch, std::shared_ptr<Arena> arena)
    : host_(std::move(host)),
      launch_(std::move(launch)),
      arena_(std::move(arena)),
      procs_(static_cast<std::uint32_t>(launch_.options.procs)) {
  const int replicas = launch_.mesh ? 1 : launch_.options.num_replicas;
  for (int i = 0; i < replicas; ++i) {
    units_.push_back(std::make_unique<Unit>());
    units_.back()->idx = static_cast<std::uint32_t>(i);
  }
}

Engine::~Engine() = default;

// ---- binding

detail::EndpointRef Engine::bind(std::string_view endpoint, const std::string& signature,
                                 bool wants_mesh) {
  require_no_fork();
  {
    const Lock lock(mutex_);
    if (state_ != State::serving)
      throw Stopped("service '" + launch_.name +
                    "' has been shut down; it has no endpoints any more");
  }
  std::string names;
  for (std::size_t i = 0; i < actor_->endpoints.size(); ++i) {
    const auto& candidate = actor_->endpoints[i];
    names += (names.empty() ? "" : ", ") + candidate.name;
    if (candidate.name != endpoint) continue;
    if (candidate.signature != signature) {
      throw SignatureMismatch("endpoint '" + candidate.name + "' of actor '" + launch_.actor +
                              "' is " + candidate.signature + ", but it was bound as " + signature +
                              "; bind the plugin's signature");
    }
    const bool first_rank = launch_.mesh || launch_.options.return_first_rank_result;
    const bool nothing = signature.starts_with("void(");  // no value: nothing to tell apart
    if (wants_mesh == first_rank && !launch_.mesh && !nothing) {
      throw SignatureMismatch("endpoint '" + candidate.name + "' of service '" + launch_.name +
                              (first_rank ? "' answers rank 0's value; bind the plain result, or "
                                            "set return_first_rank_result = false"
                                          : "' answers a value per rank (return_first_rank_result "
                                            "= false); bind forge::ValueMesh<R>(…)"));
    }
    return {shared_from_this(), static_cast<std::uint16_t>(i), wants_mesh, {}};
  }
  throw UnknownEndpoint("actor '" + launch_.actor + "' has no endpoint '" + std::string(endpoint) +
                        "'; it has: " + names);
}

std::string Engine::endpoint_name(std::uint16_t index) const {
  return actor_ != nullptr && index < actor_->endpoints.size() ? actor_->endpoints[index].name
                                                               : "?";
}

std::string Engine::where(const replicas::Entry& entry) const {
  std::string text = launch_.name + "." + endpoint_name(entry.slot.endpoint);
  if (entry.replica != replicas::kAnyReplica)
    text += " on replica " + std::to_string(entry.replica);
  return text;
}

// ---- submitting

detail::AnswerState* Engine::submit(const detail::EndpointRef& endpoint, detail::CallMode mode,
                                    std::string_view session, detail::Writer& arguments) {
  require_no_fork();
  Lock lock(mutex_);
  Refusal refusal = admit(endpoint, mode, session);
  Payload* payload = nullptr;
  if (!refusal) refusal = place(lock, arguments, payload);
  if (refusal) {
    arguments.reset();  // it may hold on to tensors of the arena
    return failed(std::move(refusal));
  }
  Call* call = nullptr;
  ++payload->users;  // ours, until all entries have been made
  payload->session = session.empty() ? 0 : open_session(session, false);
  refusal = send_all(endpoint, mode, *payload, call);
  release(*payload);
  if (refusal) return failed(std::move(refusal));
  return call;
}

Refusal Engine::admit(const detail::EndpointRef& endpoint, detail::CallMode mode,
                      std::string_view session) {
  if (state_ != State::serving) {
    return make_error({ErrorCode::stopped, "service '" + launch_.name +
                                               "' has been shut down; start a new one to call " +
                                               endpoint_name(endpoint.index)});
  }
  if (launch_.mesh && !session.empty()) {
    return make_error({ErrorCode::invalid_argument,
                       "actor mesh '" + launch_.name +
                           "' has no sessions: it is one replica; call it without sess_id"});
  }
  if (const std::uint64_t source = endpoint.options.cancel.id; source != 0) {
    const auto state = CancelState::find(source);
    if (state && state->cancelled()) {
      return make_error({ErrorCode::cancelled, launch_.name + "." + endpoint_name(endpoint.index) +
                                                   " was cancelled before it was sent"});
    }
  }
  if (endpoint.options.timeout < std::chrono::nanoseconds::zero()) {
    return make_error(
        {ErrorCode::deadline_exceeded,
         launch_.name + "." + endpoint_name(endpoint.index) +
             " was called with a negative timeout: its deadline has passed; it was not sent"});
  }
  if (mode == detail::CallMode::call_one && procs_ != 1) {
    return make_error({ErrorCode::invalid_argument,
                       "call_one() needs a mesh of one rank; '" + launch_.name + "' has " +
                           std::to_string(procs_) + ": use call() or choose()"});
  }
  return {};
}

Refusal Engine::place(Lock& lock, detail::Writer& arguments, Payload*& payload) {
  const std::size_t size = arguments.block_size();
  const auto block = arena_->allocate(size);
  if (!block) {
    if (size > arena_->largest()) {
      return make_error(
          {ErrorCode::payload_too_large, "arguments of " + std::to_string(size) +
                                             " bytes do not fit the arena of service '" +
                                             launch_.name + "'; raise arena_bytes (now " +
                                             std::to_string(launch_.options.arena_bytes) + ")"});
    }
    return make_error({ErrorCode::backpressure,
                       "the arena of service '" + launch_.name + "' is full (" +
                           std::to_string(arena_->used()) + " bytes in use, " +
                           std::to_string(size) +
                           " wanted); wait for answers, drop tensors or raise arena_bytes"});
  }
  if (free_payloads_.empty()) {
    payloads_.push_back(std::make_unique<Payload>());
    free_payloads_.push_back(payloads_.back().get());
  }
  payload = free_payloads_.back();
  free_payloads_.pop_back();
  payload->block = *block;
  payload->size = size;
  payload->head = static_cast<std::uint32_t>(arguments.head().size());
  payload->users = 0;
  for (Tensor& tensor : arguments.residents()) {
    tensor.storage()->frozen.store(true, std::memory_order_relaxed);
    payload->residents.push_back(std::move(tensor));
  }
  if (size <= kCopyUnlocked) {
    arguments.write_to(arena_->at(*block));
    return {};
  }
  lock.unlock();
  arguments.write_to(arena_->at(*block));
  lock.lock();
  if (state_ == State::serving) return {};
  ++payload->users;
  release(*payload);
  return make_error({ErrorCode::stopped,
                     "service '" + launch_.name + "' was shut down while a call was being made"});
}

replicas::Entry& Engine::open(const detail::EndpointRef& endpoint, Payload& payload, Call* call,
                              std::uint32_t part) {
  replicas::Entry& entry = ledger_.open(0);
  entry.slot.block = payload.block;
  entry.slot.block_size = payload.size;
  entry.slot.head_size = payload.head;
  entry.slot.endpoint = endpoint.index;
  entry.idempotent = actor_->endpoints[endpoint.index].options.idempotent;
  entry.key = endpoint.options.key;
  entry.call = call;
  entry.part = part;
  entry.payload = &payload;
  ++payload.users;
  entry.slot.session = payload.session;
  if (payload.session != 0) sessions_.begin_call(payload.session);
  if (endpoint.options.cancel.id != 0) make_cancellable(entry, endpoint.options.cancel.id);
  auto timeout = endpoint.options.timeout;
  if (timeout == std::chrono::nanoseconds::zero()) timeout = host_->default_timeout();
  if (timeout > std::chrono::nanoseconds::zero()) set_deadline(entry, timeout);
  return entry;
}

Refusal Engine::send_all(const detail::EndpointRef& endpoint, detail::CallMode mode,
                         Payload& payload, Call*& call) {
  using detail::CallMode;
  if (mode == CallMode::route) {
    call = &calls_.take();
    call->begin(shared_from_this(), 1, procs_);
    replicas::Entry& entry = open(endpoint, payload, call, 0);
    Refusal refusal = route_one(entry, true);
    if (refusal) discard(entry, call);
    return refusal;
  }
  if (mode == CallMode::fanout) {
    if (healthy_.empty()) {
      return make_error({ErrorCode::no_healthy_replicas,
                         "fanout of " + launch_.name + "." + endpoint_name(endpoint.index) +
                             ": no replica is healthy now; wait for one or use route()"});
    }
    call = &calls_.take();
    call->begin(shared_from_this(), healthy_.size(), procs_);
    std::uint32_t part = 0;
    for (const forge::Replica& replica : healthy_) {
      replicas::Entry& entry = open(endpoint, payload, call, part);
      entry.home = replica.idx;
      part += procs_;
      Unit& unit = *units_[replica.idx];
      if (Refusal refusal = check_room(entry, unit)) {
        fail(entry, std::move(refusal));
        close(entry);
      } else {
        enqueue(entry, unit);
      }
    }
    return {};
  }
  Unit& unit = *units_[0];
  if (unit.state != ReplicaState::healthy) {
    return make_error({ErrorCode::worker_lost,
                       "actor mesh '" + launch_.name + "' has lost a rank (" +
                           (unit.failure.empty() ? unit.first_exit : unit.failure) +
                           "); meshes do not recover: start a new one, or use as_service",
                       {},
                       false});
  }
  const bool one = mode == CallMode::choose;
  if (mode != CallMode::broadcast) {
    call = &calls_.take();
    call->begin(shared_from_this(), 1, one ? 1 : procs_);
  }
  replicas::Entry& entry = open(endpoint, payload, call, 0);
  entry.home = 0;
  if (one) {  // the least outstanding; equal ones in turn
    entry.rank = next_rank_++ % procs_;
    for (std::uint32_t i = 0; i < procs_; ++i) {
      if (unit.ranks[i].channel->outstanding() < unit.ranks[entry.rank].channel->outstanding())
        entry.rank = i;
    }
  }
  Refusal refusal = check_room(entry, unit);
  if (refusal) {
    discard(entry, call);
  } else {
    enqueue(entry, unit);
  }
  return refusal;
}

/// A call that was refused after it had begun: its caller gets the reason from another one.
void Engine::discard(replicas::Entry& entry, Call* call) {
  close(entry);
  if (call == nullptr) return;
  call->settle();
  call->complete();
  call->abandon();
}

detail::AnswerState* Engine::failed(Refusal refusal) {
  Call& call = calls_.take();
  call.begin(shared_from_this(), 0, 0);
  call.refuse(std::move(refusal));
  return &call;
}

// ---- routing

Refusal Engine::route_one(replicas::Entry& entry, bool fresh) {
  Refusal refusal;
  if (batches(entry) && !healthy_.empty()) {
    if (fresh) refusal = check_room_anywhere(entry);
    if (!refusal) collect(entry);
    return refusal;
  }
  if (Unit* unit = choose(entry, refusal)) {
    if (fresh) refusal = check_room(entry, *unit);
    if (!refusal) enqueue(entry, *unit);
    return refusal;
  }
  if (refusal) return refusal;
  refusal = check_hope();
  if (!refusal) replicas::append(waiting_, entry);
  return refusal;
}

/// Nobody is healthy: why there is no use in waiting.
Refusal Engine::check_hope() const {
  if (anything_can_come_back()) return {};
  const std::string reason = units_[0]->failure.empty() ? "" : " (" + units_[0]->failure + ")";
  return make_error({ErrorCode::unavailable, "no replica of service '" + launch_.name +
                                                 "' can come back" + reason +
                                                 "; start a new service"});
}

Engine::Unit* Engine::choose(const replicas::Entry& entry, Refusal& refusal) {
  if (entry.slot.session != 0) return place_session(entry.slot.session, refusal);
  if (healthy_.empty()) return nullptr;
  Router& router = *routers_[entry.slot.endpoint];
  if (router.wants_load()) refresh_load();
  const std::string& name = actor_->endpoints[entry.slot.endpoint].name;
  const auto refuse = [&](ErrorCode code, const std::string& text) {
    refusal = make_error({code, "the router of endpoint '" + name + "' " + text});
    return nullptr;
  };
  try {
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

Refusal Engine::check_room(const replicas::Entry& entry, const Unit& unit) const {
  const auto limit = static_cast<std::size_t>(launch_.options.max_queued_requests +
                                              launch_.options.replica_max_concurrent_requests);
  // A call with a deadline waits for room until then: in the queue, beyond the limit.
  if (unit.load() < limit || entry.slot.deadline_ns != 0) return {};
  return make_error({ErrorCode::backpressure,
                     "replica " + std::to_string(unit.idx) + " of service '" + launch_.name +
                         "' has " + std::to_string(unit.load()) +
                         " requests (max_queued_requests " +
                         std::to_string(launch_.options.max_queued_requests) +
                         "); slow down, add replicas, or give calls a timeout to wait for room"});
}

Refusal Engine::check_room_anywhere(const replicas::Entry& entry) const {
  Refusal refusal;
  for (const forge::Replica& replica : healthy_) {
    refusal = check_room(entry, *units_[replica.idx]);
    if (!refusal) return refusal;
  }
  return refusal;
}

void Engine::refresh_load() {
  for (forge::Replica& replica : healthy_) {
    const Unit& unit = *units_[replica.idx];
    replica.active_requests = unit.in_flight.size();
    replica.queue_depth = unit.queue.size();
    replica.current_load = static_cast<double>(unit.load());
    replica.assigned_sessions = sessions_.on(replica.idx);
    replica.capacity_utilization =
        std::min(1.0, static_cast<double>(unit.in_flight.size()) /
                          launch_.options.replica_max_concurrent_requests);
  }
}

void Engine::enqueue(replicas::Entry& entry, Unit& unit) {
  if (unit.queue.empty() && entry.batch == 0 && can_send(entry, unit, 1)) {
    send(entry, unit);
    return;
  }
  replicas::append(unit.queue, entry);
}

bool Engine::can_send(const replicas::Entry& entry, Unit& unit, std::size_t count) const {
  if (unit.state != ReplicaState::healthy && entry.slot.kind != shm::RequestKind::setup)
    return false;
  if (procs_ > 1 && !unit.in_flight.empty() && unit.in_flight.size() + count > kLockstepWindow)
    return false;
  if (entry.rank != replicas::kAllRanks) return unit.ranks[entry.rank].channel->has_room();
  for (const Rank& rank : unit.ranks) {
    if (!rank.channel->has_room(count)) return false;
  }
  return true;
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
  // Nothing can fail from here on, and only this process takes a call back: it enters all rings or,
  // above, none.
  for (std::uint32_t rank = all ? 0 : entry.rank; rank < (all ? procs_ : entry.rank + 1); ++rank) {
    entry.positions.push_back(unit.ranks[rank].channel->stage(entry.slot));
  }
  replicas::append(unit.in_flight, entry);
  ++outstanding_;
}

void Engine::commit(std::uint32_t rank, Unit& unit) {
  const bool all = rank == replicas::kAllRanks;
  const std::uint32_t end = all ? procs_ : rank + 1;
  for (std::uint32_t i = all ? 0 : rank; i < end; ++i) unit.ranks[i].channel->commit();
  for (std::uint32_t i = all ? 0 : rank; i < end; ++i) unit.ranks[i].channel->wake_worker();
}

void Engine::pump(Unit& unit) {
  while (!unit.queue.empty()) {
    replicas::Entry& first = unit.queue.front();
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

// ---- sessions

std::uint64_t Engine::open_session(std::string_view id, bool strict) {
  const std::uint64_t number = sessions_.open(id, strict, SteadyClock::now());
  if (next_eviction_ == SteadyTime::max()) {
    next_eviction_ = detail::from_now(launch_.options.session_idle_timeout);
    arm(next_eviction_);
  }
  return number;
}

void Engine::start_session(std::string_view id, bool strict) {
  require_no_fork();
  const Lock lock(mutex_);
  if (state_ != State::serving) {
    throw Stopped("service '" + launch_.name + "' has been shut down; it has no sessions any more");
  }
  open_session(id, strict);
}

void Engine::terminate_session(std::string_view id) {
  const Lock lock(mutex_);
  sessions_.end(id);
}

Sessions::Map Engine::session_map() {
  const Lock lock(mutex_);
  return sessions_.map();
}

Engine::Unit* Engine::place_session(std::uint64_t session, Refusal& refusal) {
  SessionState& state = sessions_.at(session);
  if (std::exchange(state.lost, false)) {
    refusal =
        make_error({ErrorCode::session_lost,
                    "the replica that kept session '" + state.id + "' of service '" + launch_.name +
                        "' has died, and its state with it; the session goes on with the next "
                        "call, so bring its state back first"});
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
  if (best != nullptr) sessions_.place(session, best->idx);
  return best;
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

// ---- batches

bool Engine::batches(const replicas::Entry& entry) const {
  return !entry.alone && entry.home == replicas::kAnyReplica && entry.slot.session == 0 &&
         actor_->endpoints[entry.slot.endpoint].options.batch_size > 1;
}

void Engine::collect(replicas::Entry& entry) {
  const std::size_t endpoint = entry.slot.endpoint;
  const EndpointOptions& options = actor_->endpoints[endpoint].options;
  Forming& forming = forming_[endpoint];
  replicas::append(forming.entries, entry);
  if (forming.entries.size() >= static_cast<std::size_t>(options.batch_size)) {
    flush(endpoint);
  } else if (forming.entries.size() == 1) {
    forming.due = detail::from_now(options.batch_timeout);
    arm(forming.due);
  }
}

void Engine::flush(std::size_t endpoint) {
  replicas::EntryList& entries = forming_[endpoint].entries;
  if (entries.empty()) return;
  Refusal refusal;
  Unit* const unit = choose(entries.front(), refusal);
  if (unit == nullptr && !refusal) refusal = check_hope();
  // Endpoints that take one call at a time are only routed together.
  const bool as_one = actor_->endpoints[endpoint].kind == EndpointKind::batched;
  const std::uint64_t batch = as_one ? ++last_batch_ : 0;
  while (!entries.empty()) {
    replicas::Entry& entry = entries.front();
    if (refusal) {
      drop(entry, refusal);
      continue;
    }
    replicas::unlink(entry);
    entry.batch = batch;
    replicas::append(unit == nullptr ? waiting_ : unit->queue, entry);
  }
  if (unit != nullptr) pump(*unit);
}

void Engine::flush_due(SteadyTime now) {
  for (std::size_t endpoint = 0; endpoint < forming_.size(); ++endpoint) {
    Forming& forming = forming_[endpoint];
    if (forming.entries.empty()) continue;
    if (forming.due <= now) {
      flush(endpoint);
    } else {
      arm(forming.due);
    }
  }
}

void Engine::arm(SteadyTime at) {
  const std::int64_t at_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
  if (at_ns >= next_deadline_.load(std::memory_order_relaxed)) return;
  next_deadline_.store(at_ns, std::memory_order_relaxed);
  host_->engine_thread().wake_before(at_ns);
}

void Engine::dispatch_waiting() {
  for (std::size_t count = waiting_.size(); count > 0; --count) {
    replicas::Entry& entry = waiting_.front();
    replicas::unlink(entry);
    if (Refusal refusal = route_one(entry, false)) {
      fail(entry, std::move(refusal));
      close(entry);
    }
  }
}

bool Engine::anything_can_come_back() const {
  for (const auto& unit : units_) {
    if (unit->state != ReplicaState::quarantined && unit->state != ReplicaState::stopped)
      return true;
  }
  return false;
}

// ---- ending

void Engine::fail(replicas::Entry& entry, Refusal why) {
  auto* call = static_cast<Call*>(entry.call);
  if (call == nullptr) return;
  entry.call = nullptr;
  call->answer(entry.part).error = std::move(why);
  if (call->settle()) call->complete();
}

void Engine::drop(replicas::Entry& entry, Refusal why) {
  replicas::unlink(entry);
  fail(entry, std::move(why));
  close(entry);
}

void Engine::close(replicas::Entry& entry) {
  if (entry.cancel != 0) {
    if (const auto state = CancelState::find(entry.cancel))
      state->remove(weak_from_this(), entry.slot.id);
  }
  if (entry.slot.session != 0) sessions_.end_call(entry.slot.session, SteadyClock::now());
  if (auto* payload = static_cast<Payload*>(entry.payload)) release(*payload);
  ledger_.close(entry);
  if (state_ != State::serving) changed_.notify_all();
}

void Engine::release(Payload& payload) {
  if (--payload.users != 0) return;
  payload.residents.clear();
  arena_->free(payload.block);
  free_payloads_.push_back(&payload);
}

void Engine::recycle(Call& call) { calls_.put(call); }

Tensor Engine::allocate(DType dtype, const std::vector<std::int64_t>& shape) {
  require_no_fork();
  std::size_t bytes = size_of(dtype);
  for (const std::int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(bytes, static_cast<std::size_t>(dim), &bytes)) {
      throw InvalidArgument(
          "a tensor's dimensions must be positive and its bytes fit the memory; got dimension " +
          std::to_string(dim));
    }
  }
  const Lock lock(mutex_);
  if (state_ != State::serving)
    throw Stopped("service '" + launch_.name + "' has been shut down; it has no arena any more");
  if (bytes > arena_->largest()) {
    throw PayloadTooLarge("a tensor of " + std::to_string(bytes) +
                          " bytes does not fit the arena of service '" + launch_.name +
                          "'; raise arena_bytes (now " +
                          std::to_string(launch_.options.arena_bytes) + ")");
  }
  auto tensor = arena_->allocate_tensor(dtype, shape, bytes);
  if (!tensor) {
    throw Backpressure("the arena of service '" + launch_.name + "' is full (" +
                       std::to_string(arena_->used()) +
                       " bytes in use); drop tensors, wait for answers or raise arena_bytes");
  }
  return std::move(*tensor);
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
  replicas::Entry* const entry = ledger_.find(request);
  if (entry == nullptr || entry->call == nullptr) return;
  const bool queued = entry->state == replicas::EntryState::queued;
  Refusal why = make_error(
      {ErrorCode::cancelled, where(*entry) + (queued ? " was cancelled before it started"
                                                     : " was cancelled; it may still run")});
  if (queued) return drop(*entry, std::move(why));
  fail(*entry, std::move(why));  // the entry stays until its worker lets go of the payload
  const auto& unit = *units_[entry->replica];
  const std::uint32_t first = entry->rank == replicas::kAllRanks ? 0 : entry->rank;
  if (unit.incarnation != entry->incarnation) return;
  for (std::size_t i = 0; i < entry->positions.size() && first + i < unit.ranks.size(); ++i)
    unit.ranks[first + i].channel->cancel(entry->positions[i]);
}

// ---- deadlines

void Engine::set_deadline(replicas::Entry& entry, std::chrono::nanoseconds timeout) {
  const SteadyTime at = detail::from_now(timeout);
  if (at == SteadyTime::max()) return;
  entry.slot.deadline_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
  if (deadlines_.size() > 1024 && deadlines_.size() > 2 * ledger_.open_entries()) {
    decltype(deadlines_) live;  // most belong to calls that have long been answered
    for (; !deadlines_.empty(); deadlines_.pop()) {
      if (ledger_.find(unpack(deadlines_.top().second)) != nullptr) live.push(deadlines_.top());
    }
    deadlines_ = std::move(live);
  }
  deadlines_.emplace(entry.slot.deadline_ns, pack(entry.slot.id));
  arm(at);
}

void Engine::expire(SteadyTime now) {
  const auto now_ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch()).count();
  for (; !deadlines_.empty() && deadlines_.top().first <= now_ns; deadlines_.pop()) {
    replicas::Entry* entry = ledger_.find(unpack(deadlines_.top().second));
    if (entry == nullptr) continue;
    const bool queued = entry->state == replicas::EntryState::queued;
    const Refusal late =
        make_error({ErrorCode::deadline_exceeded,
                    where(*entry) +
                        (queued ? " was not started before its deadline"
                                : " was not answered before its deadline; it may still run") +
                        "; raise the timeout or add replicas"});
    if (!queued) {
      fail(*entry, late);  // the entry stays until its worker lets go of the payload
    } else {
      drop(*entry, late);
    }
  }
  next_deadline_.store(deadlines_.empty() ? INT64_MAX : deadlines_.top().first,
                       std::memory_order_relaxed);
  flush_due(now);
  evict_sessions(now);
}

std::optional<SteadyTime> Engine::next_deadline() {
  const std::int64_t at = next_deadline_.load(std::memory_order_relaxed);
  if (at == INT64_MAX) return std::nullopt;
  return SteadyTime(std::chrono::nanoseconds(at));
}

}  // namespace forge::core
