// Takes what engines record while somebody wants a trace (`forge trace`): so many requests, and no more.
#pragma once

#include <cstddef>
#include <mutex>

#include "core/trace.h"

namespace forge::core {

/// Any thread. Its lock is a leaf.
class TraceRecorder {
 public:
  /// A request is about a kilobyte of a trace's text, and a browser reads a hundred megabytes of it.
  static constexpr std::size_t kMostSpans = 100'000;

  /// Takes the address space for `most` spans now, and memory as they come.
  explicit TraceRecorder(std::size_t most = kMostSpans);

  /// What the spans of this service are to name it by.
  std::uint32_t add(TraceService service);
  /// Nothing happens once it is closed; when it is full, the span is only counted.
  void add(TraceSpan span) noexcept;
  /// Closes it and hands out what there is: services, spans and how many were dropped.
  Trace take();

 private:
  const std::size_t most_;
  std::mutex mutex_;
  bool closed_ = false;
  Trace trace_;
};

}  // namespace forge::core
