// The end of a service: it drains, then all that is left is failed and every worker is reaped.
#include <algorithm>

#include "core/engine.h"
#include "core/host.h"

namespace forge::core {

void Engine::fail_everything(const Refusal& why) {
  for (auto& [session, entries] : held_) {  // first: each that ends calls up the next
    while (!entries.empty()) drop(entries.front(), why);
  }
  while (!waiting_.empty()) drop(waiting_.front(), why);
  for (Forming& forming : forming_) {
    while (!forming.entries.empty()) drop(forming.entries.front(), why);
  }
  for (auto& unit : units_) {
    while (!unit->queue.empty()) drop(unit->queue.front(), why);
    for (replicas::Entry& entry : unit->in_flight)
      fail(entry, why);  // closed when the worker is gone
  }
}

void Engine::stop_workers(bool at_once) {
  for (Unit* const unit : everyone()) {
    unit->state = ReplicaState::stopped;
    if (!at_once) {
      send_stop(*unit);
    } else {
      fence(*unit, FenceReason::called_off);
      for (std::uint32_t rank = 0; rank < unit->life->ranks.size(); ++rank) {
        if (unit->life->ranks[rank].stuck) rank_gone(*unit, rank);  // nobody waits for it
      }
    }
  }
  update_healthy();
}

bool Engine::can_drain() const {
  bool anyone = false;
  for (const auto& unit : units_) {
    if (!unit->life->any_alive()) continue;
    if (unit->load() != 0) return true;
    anyone = true;
  }
  const bool queued =
      !waiting_.empty() || !held_.empty() ||
      std::any_of(forming_.begin(), forming_.end(), [](auto& f) { return !f.entries.empty(); });
  return anyone && queued;
}

void Engine::shutdown(std::chrono::nanoseconds grace) {
  const auto end = detail::from_now(grace);
  Lock lock(mutex_);
  if (state_ != State::serving) {  // somebody else is at it, or done
    changed_.wait(lock, [&] { return state_ == State::closed; });
    return;
  }
  state_ = State::draining;
  serve_room();
  tell(LogLevel::debug, "stopping", nullptr,
       "stops, with " + std::to_string(ledger_.open_entries()) + " calls open");
  for (std::size_t endpoint = 0; endpoint < forming_.size(); ++endpoint) flush(endpoint);
  attended_ = true;
  lock.unlock();
  host_->engine_thread().wake();
  lock.lock();
  changed_.wait_until(lock, end, [&] { return !can_drain(); });
  const bool drained = ledger_.open_entries() == 0;
  fail_everything(
      make_error({ErrorCode::stopped,
                  "service '" + launch_.name + "' was shut down before the call was answered"}));
  stop_workers(false);
  // Workers without work leave by themselves; one that is still busy has had its grace.
  if (drained)
    changed_.wait_until(lock, std::max(end, SteadyClock::now() + std::chrono::milliseconds(500)),
                        [&] { return processes_ == 0; });
  if (processes_ != 0) stop_workers(true);
  changed_.wait(lock, [&] { return processes_ == 0; });
  lock.unlock();
  host_->output().flush();
  lock.lock();
  for (Unit* const unit : everyone()) {
    unit->prepared.clear();
    leave_seats(*unit);
  }
  slabs_.clear();
  while (!saved_.empty()) forget_saved(saved_.begin()->first);
  state_ = State::closed;
  changed_.notify_all();
  lock.unlock();
  for (const std::string& line : unheard_.rest()) tell(LogLevel::warning, "unheard", nullptr, line);
  tell(LogLevel::debug, "stopped", nullptr,
       drained ? "has stopped" : "has stopped, not all answered");
  host_->engine_thread().remove(this);
  host_->forget(this);
}

}  // namespace forge::core
