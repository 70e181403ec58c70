// The way out: a call is bound, admitted and placed in the arena; dispatch.cc sends it. And how it ends.
#include "core/engine.h"

#include <algorithm>
#include <cstring>

#include "core/autoscaling_options.h"
#include "core/cancel.h"
#include "core/fork.h"
#include "core/host.h"
#include "shm/clock.h"

namespace forge::core {
namespace {

/// While there are calls, the engine thread looks after the engine this often; oftener where
/// exec_timeout is short.
constexpr std::chrono::milliseconds kPulse{100};
constexpr std::chrono::milliseconds kFastestPulse{1};

/// That it may ever have at once.
std::size_t most_replicas(const Launch& launch) {
  return launch.mesh ? 1 : static_cast<std::size_t>(replica_bounds(launch.options).max);
}

}  // namespace

Result<std::shared_ptr<Engine>> Engine::create(std::shared_ptr<Host> host, Launch launch) {
  auto arena = Arena::create(launch.name, launch.options.arena_bytes, !launch.options.with_gpus);
  if (!arena) return arena.error_ptr();
  auto engine =
      std::shared_ptr<Engine>(new Engine(std::move(host), std::move(launch), std::move(*arena)));
  if (engine->launch_.manifest) {
    engine->actor_ = engine->launch_.manifest.get();
    for (const auto& endpoint : engine->actor_->endpoints) {
      if (endpoint.options.batch_size <= static_cast<int>(shm::kWindow)) continue;
      return make_error({ErrorCode::invalid_argument,
                         "service '" + engine->launch_.name + "': endpoint '" + endpoint.name +
                             "' wants batches of " + std::to_string(endpoint.options.batch_size) +
                             "; the most is " + std::to_string(shm::kWindow)});
    }
    engine->interleaves_ =
        engine->procs_ == 1 &&
        std::any_of(engine->actor_->endpoints.begin(), engine->actor_->endpoints.end(),
                    [](const auto& endpoint) { return endpoint.coroutine; });
    // With a device the next call starts while the last one's results are on their way out; their
    // answers come in order.
    engine->overlaps_ =
        engine->interleaves_ || (engine->procs_ == 1 && engine->launch_.options.with_gpus);
    for (const auto& endpoint : engine->actor_->endpoints) {
      if (const auto& limit = endpoint.options.exec_timeout) {
        engine->pulse_period_ = std::min(
            engine->pulse_period_, std::max<std::chrono::nanoseconds>(*limit / 4, kFastestPulse));
      }
    }
    engine->bound_.resize(engine->actor_->endpoints.size());
    engine->find_state_endpoints();
    engine->endpoint_metrics_.resize(engine->actor_->endpoints.size());
    engine->failures_.resize(engine->actor_->endpoints.size());
    engine->slabs_.resize(engine->actor_->endpoints.size());
    engine->forming_ = std::vector<Forming>(engine->actor_->endpoints.size());
    engine->routers_ = engine->host_->make_routers(*engine->actor_, engine->launch_.options);
    if (engine->launch_.options.autoscaling.enabled && !engine->launch_.mesh)
      engine->autoscaler_.emplace(engine->launch_.options.autoscaling);
  }
  if (const Status status = engine->take_first_seats(); !status.ok()) return make_error(status);
  return engine;
}

Engine::Engine(std::shared_ptr<Host> host, Launch launch, std::shared_ptr<Arena> arena)
    : host_(std::move(host)),
      launch_(std::move(launch)),
      arena_(std::move(arena)),
      procs_(static_cast<std::uint32_t>(launch_.options.procs)),
      suspects_(launch_.options.restart.window),
      timeline_(most_replicas(launch_)) {
  const auto replicas = static_cast<int>(most_replicas(launch_));
  stale_.reserve(static_cast<std::size_t>(replicas));
  pulse_period_ = kPulse;
  const int spares = launch_.mesh ? 0 : launch_.options.spares;
  for (int i = 0; i < replicas + spares; ++i) {
    auto& units = i < replicas ? units_ : spares_;
    units.push_back(std::make_unique<Unit>());
    units.back()->idx = static_cast<std::uint32_t>(i);
    units.back()->spare = i >= replicas;
    units.back()->wanted = units.back()->spare || launch_.mesh || i < launch_.options.num_replicas;
  }
}

Engine::~Engine() {  // one that never started still has its seats
  for (Unit* const unit : everyone()) leave_seats(*unit);
}

// ---- binding

detail::EndpointRef Engine::bind(std::string_view endpoint, const std::string& signature,
                                 bool wants_mesh) {
  require_no_fork();
  const Lock lock(mutex_);
  if (state_ != State::serving)
    throw Stopped("service '" + launch_.name +
                  "' has been shut down; it has no endpoints any more");
  std::string names;
  for (std::size_t i = 0; i < actor_->endpoints.size(); ++i) {
    const auto& candidate = actor_->endpoints[i];
    if (detail::is_hidden(candidate.name)) continue;
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
    if (!version_->offers[i] || (next_version_ && !next_version_->offers[i])) {
      throw UnknownEndpoint("the plugin that service '" + launch_.name +
                            "' is updated to has no endpoint '" + candidate.name + "' that is " +
                            candidate.signature + "; start a new service for another one");
    }
    bound_[i] = true;
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
  const auto timeout =
      endpoint.options.timeout ? endpoint.options.timeout : host_->default_timeout();
  const SteadyTime until = timeout ? detail::from_now(*timeout) : SteadyTime::max();
  Lock lock(mutex_);
  Refusal refusal = admit(endpoint, mode, session);
  if (!refusal && timeout && *timeout <= std::chrono::nanoseconds::zero())
    refusal = has_no_time(endpoint, *timeout);
  Payload* payload = nullptr;
  if (!refusal) refusal = place(lock, arguments, until, payload);
  if (refusal) {
    arguments.reset();  // it may hold on to tensors of the arena
    return failed(endpoint.index, std::move(refusal));
  }
  Call* call = nullptr;
  ++payload->users;  // ours, until all entries have been made
  payload->session = session.empty() ? 0 : open_session(session, false);
  refusal = refuse_suspect(endpoint, *payload);
  if (!refusal) refusal = send_all(endpoint, mode, *payload, until, call);
  release(*payload);
  if (refusal) return failed(endpoint.index, std::move(refusal));
  if (endpoint.options.cancel.id != 0) {  // it may have been cancelled since admit()
    lock.unlock();
    const auto source = CancelState::find(endpoint.options.cancel.id);
    if (source && source->cancelled()) source->cancel();
  }
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
  if (mode == detail::CallMode::call_one && procs_ != 1) {
    return make_error({ErrorCode::invalid_argument,
                       "call_one() needs a mesh of one rank; '" + launch_.name + "' has " +
                           std::to_string(procs_) + ": use call() or choose()"});
  }
  return {};
}

Refusal Engine::has_no_time(const detail::EndpointRef& endpoint,
                            std::chrono::nanoseconds timeout) const {
  const char* const whose =
      endpoint.options.timeout ? "a timeout" : "the controller's default_timeout";
  return make_error({ErrorCode::deadline_exceeded,
                     launch_.name + "." + endpoint_name(endpoint.index) + " was called with " +
                         whose + " of " + std::to_string(timeout.count()) +
                         " ns: its deadline has passed; it was not sent"});
}

Payload& Engine::take_payload(std::uint64_t block, std::uint64_t size, std::size_t head) {
  if (free_payloads_.empty()) {
    payloads_.push_back(std::make_unique<Payload>());
    free_payloads_.push_back(payloads_.back().get());
  }
  Payload& payload = *free_payloads_.back();
  free_payloads_.pop_back();
  payload.block = block;
  payload.size = size;
  payload.head = static_cast<std::uint32_t>(head);
  payload.users = 0;
  return payload;
}

replicas::Entry& Engine::open(const detail::EndpointRef& endpoint, Payload& payload, Call* call,
                              std::uint32_t part, SteadyTime until) {
  replicas::Entry& entry = ledger_.open(0);
  entry.slot.block = payload.block;
  entry.slot.block_size = payload.size;
  entry.slot.head_size = payload.head;
  entry.slot.endpoint = endpoint.index;
  const EndpointOptions& options = actor_->endpoints[endpoint.index].options;
  entry.idempotent = options.idempotent;
  if (options.restart_on_error) entry.slot.flags |= shm::kRestartOnError;
  entry.key = endpoint.options.key;
  entry.call = call;
  entry.part = part;
  entry.payload = &payload;
  ++payload.users;
  entry.slot.session = payload.session;
  if (next_pulse_ == SteadyTime::max()) [[unlikely]]
    begin_pulse();
  if (--until_timed_ == 0) {
    until_timed_ = stride_;
    time_begins(entry);
  }
  if (payload.session != 0) sessions_.begin_call(payload.session);
  if (endpoint.options.cancel.id != 0) make_cancellable(entry, endpoint.options.cancel.id);
  if (until != SteadyTime::max()) set_deadline(entry, until);
  return entry;
}

Refusal Engine::send_all(const detail::EndpointRef& endpoint, detail::CallMode mode,
                         Payload& payload, SteadyTime until, Call*& call) {
  using detail::CallMode;
  if (mode == CallMode::route || mode == CallMode::fanout) {
    call = &calls_.take();
    call->begin(shared_from_this(), 1, procs_, endpoint.index);
    replicas::Entry& entry = open(endpoint, payload, call, 0, until);
    entry.spreads = mode == CallMode::fanout;
    // It comes back to the state it found, so another execution does no more than the first.
    if (stateful_ && payload.session != 0 && !entry.spreads) entry.idempotent = true;
    Refusal refusal = route_one(entry, true);
    if (refusal) discard(entry, call);
    return refusal;
  }
  Unit& unit = *units_[0];
  if (unit.state != ReplicaState::healthy) {
    return make_error({ErrorCode::worker_lost,
                       "actor mesh '" + launch_.name + "' has lost a rank (" +
                           (unit.failure.empty() ? unit.life->first_exit : unit.failure) +
                           "); meshes do not recover: start a new one, or use as_service",
                       {},
                       false});
  }
  const bool one = mode == CallMode::choose;
  call = &calls_.take();
  call->begin(shared_from_this(), 1, one ? 1 : procs_, endpoint.index);
  replicas::Entry& entry = open(endpoint, payload, call, 0, until);
  entry.home = 0;
  if (one) {  // the least outstanding; equal ones in turn
    entry.rank = next_rank_++ % procs_;
    for (std::uint32_t i = 0; i < procs_; ++i) {
      if (unit.life->ranks[i].channel->outstanding() <
          unit.life->ranks[entry.rank].channel->outstanding())
        entry.rank = i;
    }
  }
  Refusal refusal = check_room(entry, unit);
  if (refusal) {
    discard(entry, call);
  } else {
    enqueue(entry, unit);
    // Nobody receives what comes of it; what goes wrong is told when it is disposed of.
    if (mode == CallMode::broadcast) std::exchange(call, nullptr)->abandon();
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

detail::AnswerState* Engine::failed(std::uint16_t endpoint, Refusal refusal) {
  count_failure(endpoint, refusal->error_code());
  Call& call = calls_.take();
  call.begin(shared_from_this(), 0, 0, endpoint);
  call.refuse(std::move(refusal));
  return &call;
}

// ---- ending

void Engine::fail(replicas::Entry& entry, Refusal why) {
  auto* call = static_cast<Call*>(entry.call);
  if (call == nullptr) return;
  entry.call = nullptr;
  if (entry.replica != replicas::kAnyReplica) count(*units_[entry.replica], false);
  count_failure(entry.slot.endpoint, why->error_code());
  if (recorder_ && entry.called_ns != 0) trace(entry, why->error_code(), {}, shm::now_ns());
  if (entry.spreads) return call->refuse(std::move(why));
  call->answer(entry.part).error = std::move(why);
  if (call->settle()) call->complete();
}

void Engine::drop(replicas::Entry& entry, Refusal why) {
  replicas::unlink(entry);
  if (entry.replica != replicas::kAnyReplica) load_changed(*units_[entry.replica]);
  fail(entry, std::move(why));
  close(entry);
}

void Engine::close(replicas::Entry& entry) {
  if (entry.cancel != 0) {
    if (const auto state = CancelState::find(entry.cancel))
      state->remove(weak_from_this(), entry.slot.id);
  }
  const std::uint64_t session = entry.slot.session;
  const bool led = entry.leads;
  if (std::exchange(entry.marked, false)) arena_->mark_cancelled(entry.slot.id, false);
  if (entry.in_order) --sessions_.at(session).shares;
  if (session != 0) sessions_.end_call(session, SteadyClock::now());
  if (auto* payload = static_cast<Payload*>(entry.payload)) release(*payload);
  ledger_.close(entry);
  if (led) release_next(session);
  if (state_ != State::serving) changed_.notify_all();
}

void Engine::release(Payload& payload) {
  if (--payload.users != 0) return;
  payload.residents.clear();
  arena_->free(payload.block);
  free_payloads_.push_back(&payload);
  if (!room_.empty()) serve_room();
}

void Engine::recycle(Call& call) { calls_.put(call); }

void Engine::unheard(std::uint16_t endpoint, const Error& error) noexcept {
  // Who cancels a call or shuts a service down knows what becomes of futures that he has dropped.
  if (error.error_code() == ErrorCode::cancelled || error.error_code() == ErrorCode::stopped)
    return;
  try {
    const std::string name = endpoint_name(endpoint);
    if (const auto line = unheard_.add(name, error, SteadyClock::now()))
      tell(LogLevel::warning, "unheard", nullptr, *line);
  } catch (...) {  // there was no memory for it
  }
}

}  // namespace forge::core
