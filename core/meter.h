// What an engine counts, over time. Pure: no lock, no clock. Guarded by its service's lock.
#pragma once

#include <forge/metrics.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <vector>

namespace forge::core {

/// Of one replica, over all its incarnations.
struct ReplicaMeter {
  std::uint64_t succeeded = 0;
  std::uint64_t failed = 0;
  std::uint64_t rejected = 0;
  Histogram latency;
  std::uint64_t total() const { return succeeded + failed; }
};

/// The last minute of a service, in stretches of time without gaps in what was counted. Between them
/// nothing happened.
class Timeline {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// How things stood with a replica at the end of a stretch.
  struct Level {
    std::uint64_t requests = 0;  ///< that have ended, ever
    double queue_depth = 0;
    double utilization = 0;
    bool healthy = false;
  };

  explicit Timeline(std::size_t replicas) : last_(replicas) {}

  /// Nothing has happened since the last stretch ended; the next one begins now.
  void resume(Time now) { begin_ = now; }
  /// A stretch ends, and the next one begins. Returns the requests that ended in it.
  std::uint64_t roll(Time now, const std::vector<Level>& levels);

  /// Requests per second of one replica, over the last minute, or since `born`.
  double rate(std::size_t replica, Time now, Time born) const;
  std::vector<ServiceMetrics::Interval> intervals(Time now) const;

 private:
  struct Stretch {
    Time begin;
    Time end;
    std::vector<std::uint64_t> requests;  // by replica
    double queue_time = 0;                // ns × queue depth, of the average healthy replica
    double busy_time = 0;                 // ns × utilization, likewise
  };

  Time begin_{};
  std::vector<Level> last_;
  std::deque<Stretch> stretches_;
};

}  // namespace forge::core
