// A recording, and what engines tell it: each of their requests, when it is over.
#include "core/tracing.h"

#include <algorithm>
#include <new>
#include <utility>

#include "core/engine.h"
#include "core/host.h"
#include "shm/clock.h"

namespace forge::core {

std::shared_ptr<Tracing> Tracing::begin(Host& host) {
  std::shared_ptr<Tracing> tracing(new Tracing(host));
  host.trace_to(tracing->recorder_);  // what this throws ends it
  return tracing;
}

Tracing::Tracing(Host& host)
    : host_(host),
      recorder_(std::make_shared<TraceRecorder>()),
      events_before_(host.events().last()),
      began_ns_(shm::now_ns()) {}

Tracing::~Tracing() { host_.trace_to(nullptr); }

Trace Tracing::end() {
  Trace trace = recorder_->take();
  trace.began_ns = began_ns_;
  trace.ended_ns = shm::now_ns();
  trace.events = host_.events().since(events_before_, EventLog::kKept);
  if (!trace.events.empty()) trace.missed_events = trace.events.front().number - events_before_ - 1;
  return trace;
}

void Engine::trace_to(std::shared_ptr<TraceRecorder> recorder) {
  std::uint32_t number = 0;
  if (recorder) {
    TraceService service{launch_.name, launch_.actor, {}};
    for (const auto& endpoint : actor_->endpoints) service.endpoints.push_back(endpoint.name);
    number = recorder->add(std::move(service));
  }
  const Lock lock(mutex_);
  std::swap(recorder_, recorder);  // the old one goes when the lock is free
  traced_as_ = number;
  stride_ = until_timed_ = 1;  // all calls, from the next on
}

void Engine::trace_answer(const replicas::Entry& entry, Call& call, const shm::ResponseSlot& slot) {
  ErrorCode outcome = ErrorCode::ok;
  const std::uint32_t ranks = entry.rank == replicas::kAllRanks ? procs_ : 1;
  for (std::uint32_t rank = 0; rank < ranks && outcome == ErrorCode::ok; ++rank) {
    if (const auto& error = call.answer(entry.part + rank).error) outcome = error->error_code();
  }
  const bool stamped = (slot.flags & shm::kStamped) != 0;
  trace(entry, outcome, stamped ? shm::read_stamp(slot) : shm::Stamp{}, drained_at_ns_);
}

void Engine::trace(const replicas::Entry& entry, ErrorCode outcome, const shm::Stamp& stamp,
                   std::int64_t over_ns) try {
  TraceSpan span;
  span.request = shm::packed(entry.slot.id);
  span.service = traced_as_;
  span.endpoint = entry.slot.endpoint;
  span.attempt = entry.slot.attempt;
  if (entry.replica != replicas::kAnyReplica)
    span.replica = static_cast<std::int32_t>(entry.replica);
  span.incarnation = entry.incarnation;
  span.batch = entry.slot.batch;
  span.outcome = outcome;
  if (entry.slot.session != 0) span.session = sessions_.at(entry.slot.session).id;
  span.called_ns = entry.called_ns;
  span.left_ns = entry.left_ns;
  // Else it says when another call went that had this entry before, or this one before its batch left.
  if (entry.sent_ns >= std::max(entry.called_ns, entry.left_ns)) span.sent_ns = entry.sent_ns;
  span.started_ns = stamp.started_ns;
  span.ended_ns = stamp.ended_ns;
  span.over_ns = over_ns;
  recorder_->add(std::move(span));
} catch (const std::bad_alloc&) {  // the name of a session; the request goes on without
}

}  // namespace forge::core
