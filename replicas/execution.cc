#include "replicas/execution.h"

#include <forge/payload.h>

#include <algorithm>
#include <string>
#include <utility>

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
  while (sources_.size() < live_.size()) add_source();
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
  ended_ = wants_restart_ = touched_ = joined_ = false;
  call_.emplace(detail::Invocation{readers_, place_.writer, *this});
  if (place_.lane != nullptr) {
    call_->gate = this;
    held_.reserve(live_.size());  // answers_ points there
  }
  const detail::ScopeGuard guard({this, detail::scope().loop, nullptr});
  FORGE_FAILPOINT(entered);
  place_.host->invoke(first.endpoint, *call_);
  return ended_;
}

void Execution::finish() {
  if (!live_.empty()) place_.flight.end(flight_, failed_);
  kept_.clear();  // first, so that they do not count as kept by the actor
  for (std::size_t i = 0; i < std::max<std::size_t>(live_.size(), 1); ++i) sources_[i].end();
  live_.clear();
  readers_.clear();
  answers_.clear();
  held_.clear();
  mark_.reset();
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
  if (place_.lane != nullptr) {
    return *answers_.emplace_back(&held_.emplace_back(Outbox::prepare(live_[given_++])));
  }
  return *answers_.emplace_back(&place_.outbox.claim(live_[given_++]));
}

/// Before a slot is claimed: meanwhile others may be published.
void Execution::make_room(std::size_t size) {
  if (size == 0 || place_.outbox.answers().hold(size)) return;
  if (place_.lane == nullptr) {
    stamp();  // they may leave now
    answers_.clear();
  }
  place_.starve(size);
}

void Execution::value(detail::Writer& out) {
  make_room(AnswerPool::needed(out));
  place_.outbox.value(next_slot(), out);
}

void Execution::error(const Error& error) {
  place_.writer.restart();
  detail::write_error(place_.writer, error);
  make_room(AnswerPool::needed(place_.writer));
  shm::ResponseSlot& slot = next_slot();
  if (place_.group.let_down()) slot.flags |= shm::kLetDown;
  place_.outbox.error(slot, place_.writer, error.error_code());
}

void Execution::ended() noexcept {
  const shm::RequestSlot& first = live_.front();
  const ErrorCode code = place_.host->outcome(first.endpoint, *call_);
  failed_ = code != ErrorCode::ok;
  if (failed_) wants_restart_ = (first.flags & shm::kRestartOnError) != 0;
  while (given_ < live_.size()) {  // all that is left has failed as a whole
    make_room(AnswerPool::needed(place_.writer));
    shm::ResponseSlot& slot = next_slot();
    if (live_.size() > 1) slot.flags |= shm::kBatchFailed;
    if (place_.group.let_down()) slot.flags |= shm::kLetDown;
    place_.outbox.error(slot, place_.writer, code);
  }
  if (place_.lane != nullptr) {
    end_on_device(code);
  } else {
    stamp();
  }
  place_.group.end(code);
  ended_ = true;
  FORGE_FAILPOINT(ended);
}

void Execution::stamp() {
  if (started_ns_ == 0) return;
  const std::int64_t now = shm::now_ns();
  for (shm::ResponseSlot* slot : answers_) shm::write_stamp(*slot, {started_ns_, now});
}

// ---- on a device

void* Execution::stream() const {
  if (place_.lane == nullptr) return Context::stream();
  touched_ = true;
  return place_.lane->compute().native();
}

detail::DeviceWork* Execution::device_work() {
  touched_ = true;
  return place_.lane;
}

Tensor Execution::allocate_on_device(DType dtype, std::span<const std::int64_t> shape) {
  if (place_.lane == nullptr) return Tensor(dtype, {shape.begin(), shape.end()});
  touched_ = true;
  return place_.lane->allocate(dtype, shape);
}

Tensor Execution::to_device(const Tensor& tensor) {
  if (place_.lane == nullptr || tensor.device() >= 0) return tensor;
  touched_ = true;
  Tensor copy = place_.lane->copy_of(tensor);
  if (live_.empty()) {  // setup(): nobody would keep it
    place_.lane->synchronize();
  } else {
    kept_.push_back(tensor);
  }
  return copy;
}

Tensor Execution::to_host(const Tensor& tensor) {
  if (place_.lane == nullptr || tensor.device() < 0) return Context::to_host(tensor);
  touched_ = true;
  Tensor host = allocate_response(tensor.dtype(), tensor.shape());
  place_.lane->copy_back(tensor, host.span<std::byte>());
  return host;
}

void Execution::arrive() {
  arrivals_.clear();
  for (std::size_t i = 0; i < live_.size(); ++i) sources_[i].arrivals(arrivals_);
  if (arrivals_.empty()) return;
  touched_ = true;
  place_.lane->bring(arrivals_);
}

void Execution::join_out() {
  if (std::exchange(joined_, true)) return;
  place_.lane->join();
}

Tensor Execution::leave(const Tensor& tensor) {
  if (tensor.device() < 0) return tensor;
  if (tensor.device() != place_.lane->ordinal()) {
    throw InvalidArgument("a result lies on device " + std::to_string(tensor.device()) +
                          ", which is not this worker's: here that is device " +
                          std::to_string(place_.lane->ordinal()) + ", the only one there is");
  }
  touched_ = true;
  join_out();
  make_room(tensor.byte_count());
  Tensor host = place_.outbox.answers().allocate_here(tensor.dtype(), tensor.shape());
  kept_.push_back(host);  // whatever becomes of the answer, the copy writes there
  if (!place_.lane->keeps(tensor)) kept_.push_back(tensor);
  place_.lane->send(tensor, host.span<std::byte>());
  return host;
}

/// A call that has failed may have done so because of what it put in before: the mark finds out.
void Execution::end_on_device(ErrorCode code) noexcept {
  if (!touched_ && code == ErrorCode::ok) return;
  for (std::size_t i = 0; i < live_.size(); ++i) sources_[i].let_go();
  mark_ = place_.lane->mark(std::exchange(joined_, true));
}

void Execution::hand_over() {
  if (mark_) {
    if (!mark_->failure.ok()) fail_all(mark_->failure);
    place_.lane->close(std::move(*mark_));
  }
  stamp();
  for (const shm::ResponseSlot& slot : held_) place_.outbox.send(slot);
}

void Execution::fail_all(const Status& status) {
  for (shm::ResponseSlot& slot : held_) {
    if (slot.kind != shm::ResponseKind::value) continue;
    place_.outbox.answers().discard(slot);
    place_.outbox.error(slot, place_.writer, *make_error(status));
  }
}

}  // namespace forge::replicas
