// Workers that are alive and do not do what they should: run too long, do not run, do not come up, do not
// end. Looked after by the pulse; times do not count while the controller itself was paused.
#include <algorithm>

#include "core/engine.h"
#include "core/host.h"
#include "core/scaling_rules.h"

namespace forge::core {
namespace {

/// A call that runs longer than this, without a limit of its own, is worth a line in the log.
constexpr std::chrono::seconds kLong{60};
/// A worker that is found stopped this often in a row is killed; a debugger's user stops it for less.
constexpr int kStops = 2;

}  // namespace

/// Kills workers whose calls run longer than exec_timeout.
void Engine::watch_executions(std::chrono::nanoseconds elapsed) {
  for (const auto& unit : units_) {
    if (unit->life->stage() != Stage::running) continue;
    replicas::Entry* late = nullptr;
    for (replicas::Entry& entry : unit->in_flight) {
      if (overran(*unit, entry, elapsed)) late = &entry;
    }
    if (late == nullptr) continue;
    const shm::RequestId id = late->slot.id;
    drain();  // it may have answered by now
    if (ledger_.find(id) != late || unit->life->stage() != Stage::running) continue;
    unit->life->verdict =
        endpoint_name(late->slot.endpoint) + " had run longer than its exec_timeout";
    unit->life->culprit = shm::packed(id);
    host_->log(LogLevel::warning, where(*late) + " has run for " +
                                      std::to_string(late->running_ns / 1'000'000) +
                                      " ms, longer than its exec_timeout; its worker is killed and "
                                      "replaced");
    fence(*unit, FenceReason::overrun);
  }
}

/// A worker that has work and does not begin anything may be busy with a long call, or stopped by a
/// signal: its process tells. Silence alone never kills.
void Engine::watch_silence(std::chrono::nanoseconds elapsed) {
  for (Unit* const unit : everyone()) {
    if (unit->life->stage() != Stage::running) continue;
    for (std::uint32_t i = 0; i < unit->life->ranks.size(); ++i) {
      Rank& rank = unit->life->ranks[i];
      const std::uint64_t beat = rank.channel->heartbeat();
      if (beat != rank.heartbeat || rank.channel->outstanding() == 0 || rank.process.id == 0) {
        rank.heartbeat = beat;
        rank.silent = {};
        rank.stops = 0;
      } else if ((rank.silent += elapsed) >= launch_.options.health_poll_rate) {
        rank.silent = {};
        host_->watchdog().post(
            [self = shared_from_this(), life = unit->life, i] { self->look_at(life, i); });
      }
    }
  }
}

void Engine::look_at(const LifePtr& life, std::uint32_t rank) {  // watchdog thread
  on_watchdog([this, life, rank](Lock& lock) {
    if (life->stage() != Stage::running) return;
    const replicas::Process process = life->ranks[rank].process;
    lock.unlock();  // a file is read
    const bool stopped = host_->watchdog().is_stopped(process);
    on_watchdog([this, life, rank, stopped](Lock&) { seen_stopped(life, rank, stopped); });
  });
}

void Engine::seen_stopped(const LifePtr& life, std::uint32_t rank, bool stopped) {
  if (life->stage() != Stage::running) return;
  int& stops = life->ranks[rank].stops;
  stops = stopped ? stops + 1 : 0;
  if (stops < kStops) return;
  life->verdict = "a signal had stopped it";
  life->killed_from_outside = true;
  host_->log(LogLevel::warning,
             "service '" + launch_.name + "': rank " + std::to_string(rank) + " (pid " +
                 std::to_string(life->ranks[rank].process.pid) + ") of " + name_of(*life->unit) +
                 " has been stopped by a signal and has work to do; it is killed "
                 "and replaced");
  fence(*life->unit, FenceReason::stopped_by_signal);
}

/// Lives that do not come up, and lives that do not end.
void Engine::watch_lives(std::chrono::nanoseconds elapsed) {
  for (Unit* const unit : everyone()) {
    Life& life = *unit->life;
    if (life.stage() != Stage::running || state_ != State::serving) continue;
    if (!life.came_up && (life.starting += elapsed) >= launch_.options.start_timeout)
      not_up_in_time(*unit);
    if (is_leaving(life) && (life.stopping += elapsed) >= grace()) not_gone_in_time(*unit);
  }
}

void Engine::not_up_in_time(Unit& unit) {
  setup_failed(unit,
               {ErrorCode::deadline_exceeded, "service '" + launch_.name + "': " + name_of(unit) +
                                                  " did not come up within start_timeout (" +
                                                  seconds(launch_.options.start_timeout) +
                                                  "); raise it or look at what setup() does"});
  unit.life->verdict = "it did not come up within start_timeout";
  fence(unit, FenceReason::not_up_in_time);
}

/// Does nothing keep it but itself? It has been asked to end, or a worker has said that it does.
bool Engine::is_leaving(const Life& life) {
  return life.asked_to_stop ||
         std::any_of(life.ranks.begin(), life.ranks.end(), [](const Rank& rank) {
           return rank.alive && rank.channel->exit_reason() != shm::ExitReason::none;
         });
}

void Engine::not_gone_in_time(Unit& unit) {
  host_->log(LogLevel::warning, "service '" + launch_.name + "': " + name_of(unit) +
                                    " had nothing left to do and did not end within the grace "
                                    "period (" +
                                    seconds(grace()) +
                                    "); it is killed; look at what its actor's destructor does");
  unit.life->verdict = "it did not end within the grace period";
  fence(unit, FenceReason::not_gone_in_time);
}

bool Engine::overran(Unit& unit, replicas::Entry& entry, std::chrono::nanoseconds elapsed) {
  if (!was_started(unit, entry) || entry.slot.kind != shm::RequestKind::call) return false;
  if (entry.running_ns < 0) {
    entry.running_ns = 0;
    return false;
  }
  const auto& limit = actor_->endpoints[entry.slot.endpoint].options.exec_timeout;
  const std::int64_t before = entry.running_ns;
  entry.running_ns += elapsed.count();
  if (limit) return entry.running_ns > limit->count();
  const std::int64_t warn_at = std::chrono::nanoseconds(kLong).count();
  if (before < warn_at && entry.running_ns >= warn_at) {
    host_->log(LogLevel::warning, where(entry) +
                                      " has been running for a minute; give the endpoint an "
                                      "exec_timeout if it should be killed for that");
  }
  return false;
}

}  // namespace forge::core
