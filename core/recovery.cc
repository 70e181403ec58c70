// Deaths: "The life of a crash" in ARCHITECTURE.md. Seen, fenced, drained, sorted, replaced.
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "core/death.h"
#include "core/engine.h"
#include "core/host.h"

namespace forge::core {
namespace {

double jitter() {
  static thread_local std::minstd_rand random{std::random_device{}()};
  return std::uniform_real_distribution<double>(0, 1)(random);
}

replicas::RestartPolicy restart_policy(const RestartPolicy& options) {
  replicas::RestartPolicy policy;
  policy.first_delay = options.backoff_initial;
  policy.max_delay = options.backoff_max;
  policy.max_deaths = static_cast<std::uint32_t>(options.max_deaths);
  policy.window = options.window;
  policy.quarantine = options.quarantine;
  policy.max_quarantine = std::max(policy.max_quarantine, options.quarantine);
  return policy;
}

/// An end that nobody can tell forge of counts as a kill too, unless the worker left word of another.
bool looks_killed(const replicas::Channel& channel, const replicas::ExitInfo& exit) {
  if (exit.kind == replicas::ExitInfo::Kind::unknown)
    return channel.exit_reason() == shm::ExitReason::none && channel.flight().signal == 0;
  return exit.kind == replicas::ExitInfo::Kind::signaled && exit.value == SIGKILL;
}

}  // namespace

void Engine::rank_gone(Unit& unit, std::uint32_t rank) {
  if (!unit.life->ranks[rank].alive) return;
  unit.life->ranks[rank].alive = false;
  --processes_;
}

/// What a worker that was not told to end was doing; empty if that is of no interest.
std::string Engine::last_moments(const Unit& unit, std::uint32_t rank) const {
  const replicas::Channel& channel = *unit.life->ranks[rank].channel;
  if (unit.life->draining || state_ != State::serving ||
      channel.exit_reason() == shm::ExitReason::restart)
    return {};
  const replicas::Flight flight = channel.flight();
  const bool running = std::any_of(
      flight.events.begin(), flight.events.end(),
      [](const shm::FlightEvent& event) { return event.state == shm::FlightState::running; });
  if (!running && flight.signal == 0) return {};
  std::string text;
  for (const std::string& line :
       replicas::describe(flight, shm::coarse_now_ns(),
                          [&](std::uint16_t endpoint) { return endpoint_name(endpoint); }))
    text += "\n    " + line;
  const bool crashed = !unit.life->killed_from_outside && unit.life->by_itself;
  if (flight.signal == 0 && crashed)
    text += std::string("\n    where it crashed: ") + replicas::kBacktraceVariable +
            "=1 in the environment of workers has it told";
  if (crashed) host_->keep_report(rank_name(unit, rank), unit.life->first_exit + text);
  return text;
}

void Engine::on_exit(const LifePtr& life, std::uint32_t rank,
                     const replicas::ExitInfo& exit) {  // on the watchdog thread
  if (!life->has_workers()) return;
  Unit& unit = *life->unit;
  rank_gone(unit, rank);
  const Rank& dead = unit.life->ranks[rank];
  if (dead.seat.id != 0)
    host_->devices().with_book([&](gpu::DeviceBook& book) { book.reaped(dead.seat.id); });
  if (unit.life->first_exit.empty()) {
    unit.life->by_itself = unit.life->stage() != Stage::fenced;
    unit.life->device_lost = lost_device(dead, exit);
    unit.life->first_exit =
        "rank " + std::to_string(rank) + " (pid " + std::to_string(dead.process.pid) + ") " +
        (unit.life->device_lost ? "lost its device " + dead.seat.device.uuid + " and "
                                : std::string()) +
        (unit.life->verdict.empty() ? replicas::describe(exit)
                                    : "was killed because " + unit.life->verdict);
    unit.life->killed_from_outside = unit.life->killed_from_outside ||
                                     (unit.life->by_itself && looks_killed(*dead.channel, exit));
    unit.life->failed_rank = rank;
    unit.life->last_moments = last_moments(unit, rank);
    if (state_ == State::serving) {
      tell(LogLevel::debug, unit.life->draining ? "left" : "died", &unit,
           "has ended: " + unit.life->first_exit);
    }
  }
  retire(unit);
  if (starting_ && state_ == State::serving && unit.life->came_up && start_error_.ok()) {
    start_error_ = {ErrorCode::worker_lost,
                    "service '" + launch_.name + "' did not come up: " + unit.life->first_exit +
                        " while other replicas were starting",
                    {},
                    true};
  }
  if (life->any_alive()) {
    fence(unit, FenceReason::rank_lost);
  } else {
    bury(unit);
  }
  changed_.notify_all();
}

/// Nothing is routed to it any more.
void Engine::retire(Unit& unit) {
  if (unit.state != ReplicaState::healthy && unit.state != ReplicaState::uninitialized) return;
  unit.state = ReplicaState::recovering;
  update_healthy();
}

/// Its workers are killed; those that are still being started are when they have been. bury() follows.
void Engine::fence(Unit& unit, FenceReason reason) {
  Life& life = *unit.life;
  if (life.stage() != Stage::spawning && life.stage() != Stage::running) return;
  life.enter(Stage::fenced);
  life.fence = reason;
  retire(unit);
  std::vector<replicas::Process> doomed;
  for (const Rank& rank : life.ranks) {
    if (rank.alive && rank.process.id != 0) doomed.push_back(rank.process);
  }
  if (doomed.empty()) return;
  host_->watchdog().post([self = shared_from_this(), doomed = std::move(doomed)] {
    for (const auto& process : doomed) self->host_->watchdog().kill(process);
  });
}

/// It outlives a SIGKILL: it sits in the kernel, and will not run again when it leaves. What it had not
/// started goes elsewhere, what it had is lost to its callers; its memory is kept until it is reaped.
void Engine::on_stuck(const LifePtr& life, std::uint32_t rank) {  // on the watchdog thread
  if (!life->has_workers()) return;
  Unit& unit = *life->unit;
  const std::string who = "rank " + std::to_string(rank) + " (pid " +
                          std::to_string(unit.life->ranks[rank].process.pid) + ") of " +
                          name_of(unit);
  host_->log(LogLevel::error, "service '" + launch_.name + "': " + who +
                                  " does not end although it was killed; it sits in a driver or in "
                                  "the kernel, and its replica stays down until it leaves");
  unit.life->ranks[rank].stuck = true;
  if (const std::uint64_t seat = unit.life->ranks[rank].seat.id; seat != 0)
    host_->devices().with_book([&](gpu::DeviceBook& book) { book.stuck(seat); });
  sessions_lost(unit);
  hold_scattered(unit);
  std::vector<std::uint64_t> released;
  for (auto next = unit.in_flight.end(); next != unit.in_flight.begin();) {
    replicas::Entry& entry = *--next;
    if (entry.slot.kind == shm::RequestKind::setup) continue;
    if (was_started(unit, entry)) {
      if (std::exchange(entry.leads, false)) released.push_back(entry.slot.session);
      fail(entry, make_error({ErrorCode::worker_lost,
                              where(entry) + ": " + who +
                                  " does not end although it was killed; the call had started and "
                                  "may have been executed",
                              {},
                              true}));
      continue;
    }
    ++next;
    replicas::unlink(entry);
    --outstanding_;
    ledger_.lost(entry, false);
    if (entry.purpose != replicas::Purpose::call) {
      close(entry);
      continue;
    }
    ++counters_.replays;
    put_back(unit, entry);
  }
  move_queue(unit, true);
  release_scattered();
  for (const std::uint64_t session : released) release_next(session);
  if (state_ != State::serving) rank_gone(unit, rank);
  if (!healthy_.empty()) dispatch_waiting();
  changed_.notify_all();
}

void Engine::violated(Unit& unit, std::uint32_t rank) {
  if (unit.life->stage() == Stage::fenced) return;
  ++counters_.violations;
  host_->log(LogLevel::error, "service '" + launch_.name + "': rank " + std::to_string(rank) +
                                  " of " + name_of(unit) + " wrote what no worker writes (" +
                                  unit.life->ranks[rank].channel->violation() +
                                  "); it is killed and replaced");
  fence(unit, FenceReason::violation);
}

void Engine::bury(Unit& unit) {
  // Every rank has been reaped: nothing it published can change any more, and nothing can be
  // executed any more.
  for (std::uint32_t rank = 0; rank < unit.life->ranks.size(); ++rank) {
    PollMember member{unit.life, rank, unit.life->ranks[rank].channel};
    std::size_t answers = 0;
    drain_channel(member, answers);
  }
  const bool working =
      std::any_of(unit.in_flight.begin(), unit.in_flight.end(),
                  [&](const replicas::Entry& entry) { return was_started(unit, entry); });
  const bool replaced = unit.life->draining && unit.in_flight.empty();
  unit.life->left =
      replaced ||
      std::any_of(unit.life->ranks.begin(), unit.life->ranks.end(), [](const Rank& rank) {
        return rank.channel->exit_reason() == shm::ExitReason::restart;
      });
  const bool by_call = sort_out(unit);
  blame_device(unit);
  unit.life->ranks.clear();
  unit.life->enter(Stage::ended);
  poll_set_changed();
  if (unit.life->setup_error.ok()) unit.failure = unit.life->first_exit;
  if (state_ != State::serving || starting_) {
    unit.state = ReplicaState::stopped;
    changed_.notify_all();
    return;
  }
  if (launch_.mesh || launch_.actor.empty()) {
    mourn_mesh(unit);
    return;
  }
  if (unit.life->left)
    unit.failure = replaced ? "it is being replaced" : "an endpoint with restart_on_error failed";
  if (!unit.wanted && !has_shares(unit)) {
    park(unit);
    return;
  }
  // A new version that does not come up is given up at once, not again and again.
  const bool rejected = next_version_ && unit.life->version == next_version_ &&
                        !unit.life->came_up && !unit.life->killed_from_outside &&
                        !unit.life->shortage;
  if (rejected) {
    unit.rejected = unit.failure;
    unit.version = version_;
  }
  schedule_restart(unit, classify({.requested = unit.life->left || rejected ||
                                                unit.life->fence == FenceReason::called_off,
                                   .by_call = by_call || unit.life->culprit != 0,
                                   .came_up = unit.life->came_up,
                                   .answered = unit.life->answered,
                                   .working = working,
                                   .device_lost = unit.life->device_lost,
                                   .from_outside = unit.life->killed_from_outside,
                                   .shortage = unit.life->shortage}));
}

bool Engine::was_started(const Unit& unit, const replicas::Entry& entry) const {
  const std::uint32_t first = entry.rank == replicas::kAllRanks ? 0 : entry.rank;
  for (std::size_t i = 0; i < entry.positions.size(); ++i) {
    const replicas::Channel& channel = *unit.life->ranks[first + i].channel;
    // Of a worker that writes nonsense, nothing is believed: all it was handed counts as started.
    if (channel.violation() != nullptr || channel.started() > entry.positions[i]) return true;
  }
  return false;
}

/// `started`: how many calls it had begun and not answered.
replicas::Blame Engine::blame(const Unit& unit, const replicas::Entry& entry,
                              std::size_t started) const {
  if (unit.life->culprit != 0)
    return shm::packed(entry.slot.id) == unit.life->culprit ? replicas::Blame::alone
                                                            : replicas::Blame::nobody;
  if (unit.life->killed_from_outside || unit.life->left) return replicas::Blame::nobody;
  return started == 1 ? replicas::Blame::alone : replicas::Blame::several;
}

bool Engine::sort_out(Unit& unit) {
  bool by_call = false;
  const auto begun = static_cast<std::size_t>(
      std::count_if(unit.in_flight.begin(), unit.in_flight.end(), [&](const auto& entry) {
        return entry.slot.kind == shm::RequestKind::call && was_started(unit, entry);
      }));
  sessions_lost(unit);
  hold_scattered(unit);
  // Backwards, and each to the front: the order among the replayed stays what it was.
  while (!unit.in_flight.empty()) {
    replicas::Entry& entry = unit.in_flight.back();
    replicas::unlink(entry);
    --outstanding_;
    const bool started = was_started(unit, entry);
    if (entry.slot.kind == shm::RequestKind::setup) {
      if (unit.life->setup_error.ok()) {
        setup_failed(unit, {ErrorCode::worker_lost,
                            "service '" + launch_.name +
                                "' did not come up: " + unit.life->first_exit + " during setup",
                            {},
                            true});
      }
      close(entry);
      continue;
    }
    if (auto* call = static_cast<Call*>(entry.call)) {
      // What some ranks of a lockstep call have answered is void: the call did not happen as a
      // whole.
      for (std::uint32_t rank = 0; rank < (entry.rank == replicas::kAllRanks ? procs_ : 1); ++rank)
        call->answer(entry.part + rank).clear();
    }
    const replicas::Verdict verdict = launch_.mesh
                                          ? ledger_.lost_for_good(entry, started)
                                          : ledger_.lost(entry, started, blame(unit, entry, begun));
    by_call = by_call || verdict == replicas::Verdict::poison;
    if (verdict == replicas::Verdict::poison) {
      fail(entry, poison_error(unit, entry));
      close(entry);
      continue;
    }
    if (verdict == replicas::Verdict::lost || entry.call == nullptr) {
      const bool alone = started && blame(unit, entry, begun) == replicas::Blame::alone;
      const std::string accused =
          alone && entry.call != nullptr && !launch_.mesh && !unit.life->device_lost
              ? accuse(unit, entry)
              : std::string();
      by_call = by_call || !accused.empty();
      fail(entry,
           make_error({ErrorCode::worker_lost,
                       where(entry) + ": " + unit.life->first_exit +
                           (started ? " after the call had started; it may have been executed"
                                    : " before the call had started") +
                           (entry.idempotent || launch_.mesh
                                ? ""
                                : "; mark the endpoint idempotent to have such calls retried") +
                           accused,
                       {},
                       started}));
      close(entry);
      continue;
    }
    if (verdict == replicas::Verdict::retry) ++counters_.retries;
    if (verdict == replicas::Verdict::replay) ++counters_.replays;
    entry.alone = entry.alone || (entry.batch != 0 && started);
    put_back(unit, entry);
  }
  // What had only queued for this replica goes elsewhere too, behind what was ahead of it.
  move_queue(unit, true);
  if (!healthy_.empty()) dispatch_waiting();
  release_scattered();
  return by_call;
}

/// To the front of those that wait.
void Engine::put_back(Unit& unit, replicas::Entry& entry) {
  entry.replica = entry.home;
  entry.batch = 0;
  if (!interleaves_ && shares_scattered(entry)) {
    replicas::prepend(held_[entry.slot.session], entry);
    scattered_.push_back(entry.slot.session);
    return;
  }
  replicas::prepend(entry.home == replicas::kAnyReplica ? waiting_ : unit.queue, entry);
}

/// All that a worker would need to run it again. [lock]
replicas::Recording Engine::record(const Unit& unit, const replicas::Entry& entry,
                                   const std::string& reason) const {
  const Version& version = *unit.life->version;
  replicas::Recording recording;
  recording.request = launch_.name + "." + endpoint_name(entry.slot.endpoint);
  recording.reason = reason;
  if (version.plugin.empty()) {
    std::error_code none;
    recording.program = std::filesystem::read_symlink("/proc/self/exe", none);
  }
  recording.arena_bytes = arena_->size();
  recording.setup.kind = shm::RequestKind::setup;
  recording.setup.block = version.setup.storage()->home_offset;
  recording.setup.block_size = version.setup.byte_count();
  recording.setup.head_size = version.setup_head;
  recording.call = entry.slot;
  const auto add = [&](std::uint64_t offset, std::uint64_t size) {
    const std::byte* const bytes = arena_->at(offset);
    recording.pieces.push_back({offset, {bytes, bytes + size}});
  };
  const auto& payload = *static_cast<const Payload*>(entry.payload);
  add(recording.setup.block, recording.setup.block_size);
  add(payload.block, payload.size);
  for (const Tensor& tensor : payload.residents)
    add(tensor.storage()->home_offset + tensor.byte_offset(), tensor.byte_count());
  return recording;
}

// ---- calls that end their workers

std::uint64_t Engine::fingerprint(std::uint16_t endpoint, const Payload& payload) const {
  const auto hash = [](std::uint64_t seed, const std::byte* bytes, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(bytes), size);
    return seed * 0x9e3779b97f4a7c15 + std::hash<std::string_view>{}(text);
  };
  std::uint64_t sum = hash(endpoint, arena_->at(payload.block), payload.size);
  for (const Tensor& tensor : payload.residents)
    sum = hash(sum, tensor.bytes().data(), tensor.byte_count());
  return sum;
}

/// A call that is not run again has ended its worker, alone: what its caller should know of that; empty
/// the first time.
std::string Engine::accuse(const Unit& unit, const replicas::Entry& entry) {
  const auto& payload = *static_cast<const Payload*>(entry.payload);
  auto& suspect = suspects_.note(fingerprint(entry.slot.endpoint, payload), SteadyClock::now());
  if (suspect.deaths < Suspects::kMostDeaths) return "";
  suspect.deeds = "with these arguments has ended " + std::to_string(suspect.deaths) +
                  " workers, each while nothing else ran there; the last: " + unit.life->first_exit;
  const std::string path = host_->keep(record(unit, entry, suspect.deeds));
  if (!path.empty()) suspect.deeds += "; run it under a debugger: forge replay " + path;
  return "; it " + suspect.deeds + "; it is refused from now on";
}

Refusal Engine::refuse_suspect(const detail::EndpointRef& endpoint, const Payload& payload) {
  if (suspects_.empty()) [[likely]]
    return {};
  const auto* const suspect =
      suspects_.refused(fingerprint(endpoint.index, payload), SteadyClock::now());
  if (suspect == nullptr) return {};
  ++counters_.poisoned;
  return make_error({ErrorCode::poison_request,
                     launch_.name + "." + endpoint_name(endpoint.index) + " " + suspect->deeds +
                         "; it is not run; restart_replicas() or update() gives it another chance",
                     {},
                     false});
}

Refusal Engine::poison_error(const Unit& unit, const replicas::Entry& entry) {
  ++counters_.poisoned;
  const std::string deeds =
      "has killed " + std::to_string(entry.deaths) +
      " workers, one of them while nothing else ran there; the last: " + unit.life->first_exit;
  const std::string path = host_->keep(record(unit, entry, deeds));
  return make_error({ErrorCode::poison_request,
                     where(entry) + " " + deeds + "; it is not run again" +
                         (path.empty() ? "" : "; run it under a debugger: forge replay " + path),
                     {},
                     true});
}

void Engine::mourn_mesh(Unit& unit) {
  unit.state = ReplicaState::stopped;
  if (!unit.life->last_moments.empty())
    host_->log(LogLevel::warning,
               "actor mesh '" + launch_.name + "': " + unit.failure + unit.life->last_moments);
  leave_seats(unit);
  const Refusal lost = make_error(
      {ErrorCode::worker_lost, "actor mesh '" + launch_.name + "': " + unit.failure, {}, false});
  while (!unit.queue.empty()) drop(unit.queue.front(), lost);
  if (launch_.mesh && unit.life->came_up)
    host_->report_actor_failure(
        {launch_.name, static_cast<int>(unit.life->failed_rank), unit.failure});
}

void Engine::schedule_restart(Unit& unit, const replicas::Death& death) {
  const auto now = SteadyClock::now();
  const replicas::Decision decision = replicas::on_exit(
      unit.history, restart_policy(launch_.options.restart), death, now, jitter());
  const std::string moments = unit.life->last_moments;
  if (decision.action == replicas::Decision::Action::quarantine) {
    quarantine(unit, decision.at);
    return;
  }
  const LogLevel level = unit.life->draining ? LogLevel::info : LogLevel::warning;
  unit.state = ReplicaState::recovering;
  tell(level, "restarting", &unit,
       "(" + unit.failure + ") starts again, incarnation " + std::to_string(unit.incarnation + 1) +
           moments);
  plan(unit, decision.at);
}

/// It is broken: what only it could answer is refused, and it is not tried again for long.
void Engine::quarantine(Unit& unit, SteadyTime until) {
  const auto wait = std::chrono::ceil<std::chrono::seconds>(until - SteadyClock::now());
  const std::string what = "(" + unit.failure + ") died too often and is quarantined for " +
                           std::to_string(wait.count()) +
                           " s; mend it and call restart_replicas() to try at once";
  tell(LogLevel::error, "quarantined", &unit, what + unit.life->last_moments);
  unit.state = ReplicaState::quarantined;
  ++counters_.quarantines;
  plan(unit, until);
  const Refusal gone = make_error(
      {ErrorCode::unavailable, name_of(unit) + " of service '" + launch_.name + "' " + what});
  while (!unit.queue.empty()) drop(unit.queue.front(), gone);
  if (!anything_can_come_back()) {
    while (!waiting_.empty()) drop(waiting_.front(), gone);
  }
  leave(unit);
  changed_.notify_all();
}

}  // namespace forge::core
