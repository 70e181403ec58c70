#include "replicas/execution.h"

#include <algorithm>

#include "shm/clock.h"
#include "shm/failpoint.h"

namespace forge::replicas {
bool Execution::is_late(const shm::RequestSlot& request) const {
  // In lockstep the controller alone decides: ranks might see different times.
  if (procs() != 1) return false;
  return shm::is_cancelled(place_.arena_header(), request.id) ||
         (request.deadline_ns != 0 && shm::now_ns() > request.deadline_ns);
}

bool Execution::accept(const shm::RequestSlot& request) {
  if (is_late(request)) {
    place_.outbox.claim(request).kind = shm::ResponseKind::expired;
    return false;
  }
  if (!sources_.front().holds(request)) {
    place_.outbox.error(
        place_.outbox.claim(request), place_.writer,
        InvalidArgument(
            "a request lies outside of the arena; use controller and worker of one build"));
    return false;
  }
  live_.push_back(request);
  return true;
}

bool Execution::run() {
  if (live_.empty()) return true;
  place_.writer.reset(place_.outbox.answers().home());
  const shm::RequestSlot& first = live_.front();
  flight_ = place_.flight.begin(first, live_.size());
  failed_ = false;
  while (sources_.size() < live_.size()) sources_.emplace_back(place_.arena);
  deadline_ns_ = first.deadline_ns;
  started_ns_ = 0;
  for (std::size_t i = 0; i < live_.size(); ++i) {
    readers_.push_back(sources_[i].begin(live_[i]));
    // Somebody waits until the last of them.
    const std::int64_t deadline = live_[i].deadline_ns;
    deadline_ns_ = deadline == 0 || deadline_ns_ == 0 ? 0 : std::max(deadline, deadline_ns_);
    if ((live_[i].flags & shm::kTimed) != 0 && started_ns_ == 0) started_ns_ = shm::now_ns();
  }
  if (first.session != 0) sess_id_ = readers_.front().string();  // as the controller wrote it
  place_.group.begin(first.lockstep);
  ended_ = wants_restart_ = false;
  call_.emplace(detail::Invocation{readers_, place_.writer, *this});
  const detail::ScopeGuard guard({this, detail::scope().loop, nullptr});
  FORGE_FAILPOINT(entered);
  place_.host->invoke(first.endpoint, *call_);
  return ended_;
}

void Execution::finish() {
  if (!live_.empty()) place_.flight.end(flight_, failed_);
  for (std::size_t i = 0; i < std::max<std::size_t>(live_.size(), 1); ++i) sources_[i].end();
  live_.clear();
  readers_.clear();
  answers_.clear();
  sess_id_.clear();
  call_.reset();
  given_ = 0;
}

bool Execution::cancelled() const {
  if (deadline_ns_ != 0 && shm::now_ns() > deadline_ns_) return true;
  return !live_.empty() && std::all_of(live_.begin(), live_.end(), [&](const auto& request) {
    return shm::is_cancelled(place_.arena_header(), request.id);
  });
}

// ---- answers

shm::ResponseSlot& Execution::next_slot() {
  return *answers_.emplace_back(&place_.outbox.claim(live_[given_++]));
}

void Execution::value(detail::Writer& out) { place_.outbox.value(next_slot(), out); }

void Execution::error(const Error& error) {
  place_.outbox.error(next_slot(), place_.writer, error);
}

void Execution::ended() noexcept {
  const shm::RequestSlot& first = live_.front();
  const ErrorCode code = place_.host->outcome(first.endpoint, *call_);
  failed_ = code != ErrorCode::ok;
  if (failed_) wants_restart_ = (first.flags & shm::kRestartOnError) != 0;
  while (given_ < live_.size()) {  // all that is left has failed as a whole
    shm::ResponseSlot& slot = next_slot();
    if (live_.size() > 1) slot.flags |= shm::kBatchFailed;
    place_.outbox.error(slot, place_.writer, code);
  }
  if (started_ns_ != 0) {
    const std::int64_t now = shm::now_ns();
    for (shm::ResponseSlot* slot : answers_) shm::write_stamp(*slot, {started_ns_, now});
  }
  ended_ = true;
  FORGE_FAILPOINT(ended);
}

}  // namespace forge::replicas
