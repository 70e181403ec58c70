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
  TimeSplit time;
  std::vector<std::uint64_t> batch_sizes;
  std::uint64_t total() const { return succeeded + failed; }
};

inline void count_batch(std::vector<std::uint64_t>& sizes, std::size_t size) {
  if (sizes.size() <= size) sizes.resize(size + 1);
  ++sizes[size];
}

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
    double ongoing = 0;  ///< requests that have been given to it and not answered
  };

  explicit Timeline(std::size_t replicas) : last_(replicas) {}

  /// Nothing has happened since the last stretch ended; the next one begins now.
  void resume(Time now) { begin_ = now; }
  /// A stretch ends, and the next one begins. `unplaced`: requests that have no replica yet.
  /// Returns the requests that ended in it.
  std::uint64_t roll(Time now, const std::vector<Level>& levels, std::size_t unplaced = 0);

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
    double ongoing_time = 0;              // ns × requests, of the whole service
  };

  Time begin_{};
  std::vector<Level> last_;
  std::size_t last_unplaced_ = 0;
  std::deque<Stretch> stretches_;
};

}  // namespace forge::core
