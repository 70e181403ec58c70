#include "core/trace_recorder.h"

#include <utility>

namespace forge::core {

TraceRecorder::TraceRecorder(std::size_t most) : most_(most) { trace_.spans.reserve(most); }

std::uint32_t TraceRecorder::add(TraceService service) {
  const std::lock_guard lock(mutex_);
  trace_.services.push_back(std::move(service));
  return static_cast<std::uint32_t>(trace_.services.size() - 1);
}

void TraceRecorder::add(TraceSpan span) noexcept {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  if (trace_.spans.size() == most_) {
    ++trace_.dropped;
  } else {
    trace_.spans.push_back(std::move(span));  // there is room: it does not move
  }
}

Trace TraceRecorder::take() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  return std::exchange(trace_, {});
}

}  // namespace forge::core
