// A recording of what all services of a controller do, as long as it lives.
#pragma once

#include <cstdint>
#include <memory>

#include "core/trace_recorder.h"

namespace forge::core {

class Host;

/// One of a host at a time.
class Tracing {
 public:
  /// Every call from now on is timed and, when it is over, recorded.
  static std::shared_ptr<Tracing> begin(Host& host);
  ~Tracing();
  /// Ends it.
  Trace end();

 private:
  explicit Tracing(Host& host);

  Host& host_;
  const std::shared_ptr<TraceRecorder> recorder_;
  const std::uint64_t events_before_;
  const std::int64_t began_ns_;
};

}  // namespace forge::core
