// Metrics: what a service has done, and how fast. Snapshots: taking one costs the service a lock for
// microseconds; reading it costs nothing.
//
// Requests are counted one by one. Times are taken of every request while the service answers fewer
// than 20,000 a second, and of every 16th beyond that, because looking at the clock four times costs
// a tenth of a call. Clocks are monotonic.
#pragma once

#include <forge/error.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace forge {

/// A distribution of durations, in buckets that are at most a 32nd of their value wide (as in
/// HdrHistogram). Durations beyond an hour count as an hour.
class Histogram {
 public:
  void record(std::chrono::nanoseconds duration);
  void add(const Histogram& other);

  std::uint64_t count() const { return count_; }
  double sum() const;               ///< seconds
  double mean() const;              ///< seconds; 0 if it is empty
  double max() const;               ///< seconds
  double quantile(double q) const;  ///< seconds, the middle of q's bucket; q from 0 to 1
  /// How many took less than each limit, in ascending order: exact for powers of two, else to the width
  /// of a bucket.
  std::vector<std::uint64_t> counts_below(std::span<const std::chrono::nanoseconds> limits) const;

 private:
  static constexpr std::size_t kBuckets = 1216;
  static std::size_t bucket_of(std::uint64_t ns);
  static std::uint64_t lower_end(std::size_t bucket);

  std::array<std::uint64_t, kBuckets> buckets_{};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ns_ = 0;
  std::uint64_t max_ns_ = 0;
};

/// Where the time of requests goes; the parts of one request add up to `total`.
struct TimeSplit {
  Histogram
      batch_wait;       ///< from being called until its batch left; endpoints without batches: none
  Histogram queue;      ///< then until a worker's ring took it
  Histogram transport;  ///< in rings, both ways, and behind other calls in the worker's
  Histogram execution;  ///< in the endpoint, decoding and encoding included; of a batch: the whole
  Histogram total;      ///< from being called until its answer was fetched
};

struct EndpointMetrics {
  TimeSplit time;
  /// How many batches had n elements, at [n]. Endpoints that batch only.
  std::vector<std::uint64_t> batch_sizes;
  /// Calls that ended with an error, by its code(); those that were refused at once too. Fanouts count
  /// by share.
  std::map<std::string, std::uint64_t> failures;
  /// Of these, and of continuations of such calls that threw, what nobody received: of broadcasts, and of
  /// futures that were dropped. By code().
  std::map<std::string, std::uint64_t> unheard;
};

/// A worker's device, as the worker last said, some tenths of a second ago.
struct DeviceMetrics {
  std::string uuid;
  std::uint64_t memory_used = 0;    ///< bytes in buffers of this worker
  std::uint64_t memory_pooled = 0;  ///< bytes it keeps for the next buffers
  std::uint64_t memory_total = 0;   ///< bytes the device has; 0: it has not said yet
};

struct ReplicaMetrics {
  std::uint64_t total_requests = 0;  ///< successful + failed; a replayed one once, where it ended
  std::uint64_t successful_requests = 0;
  std::uint64_t failed_requests = 0;  ///< with an error of any kind, deadlines included
  double request_rate = 0;            ///< per second, over the last 60 s
  double avg_latency = 0;             ///< seconds, from call to answer
  std::size_t active_requests = 0;    ///< at most replica_max_concurrent_requests
  std::size_t queue_depth = 0;        ///< the others that wait for this replica
  std::size_t assigned_sessions = 0;
  double capacity_utilization = 0;  ///< active over replica_max_concurrent_requests
  std::uint64_t rejected = 0;       ///< Backpressure; not among the total
  std::uint64_t restarts = 0;
  std::size_t ring_requests = 0;  ///< in its workers' rings, or running there; 256 at most
  TimeSplit time;
  std::vector<std::uint64_t> batch_sizes;  ///< as those of endpoints; of all that batch
  std::vector<DeviceMetrics> devices;      ///< by rank; empty without GPUs
};

struct ServiceSummary {
  std::size_t total_sessions = 0;
  std::size_t healthy_replicas = 0;
  std::size_t total_replicas = 0;
  double total_request_rate = 0;  ///< per second, over the last 60 s
  double avg_queue_depth = 0;     ///< per replica
  double avg_capacity_utilization = 0;
  double sessions_per_replica = 0;
  std::optional<double> last_scale_event;  ///< seconds ago; none if it never scaled
  std::uint64_t scale_events = 0;
};

/// A change of the number of replicas.
struct ScaleEvent {
  double ago = 0;  ///< seconds
  std::size_t from = 0;
  std::size_t to = 0;
  std::string reason;
};

struct MetricsSummary {
  ServiceSummary service;
  std::map<std::size_t, ReplicaMetrics> replicas;    ///< by idx
  std::map<std::string, EndpointMetrics> endpoints;  ///< by name
  std::vector<ScaleEvent> scaling;                   ///< the last hundred, oldest first

  /// The names above. Histograms become count, mean, p50, p99, max.
  std::string to_json() const;
};

/// One service over time. Windows end when the snapshot was taken; where the service is younger
/// than a window, they begin with it. The longest is a minute; longer ones count as that.
class ServiceMetrics {
 public:
  static constexpr std::chrono::seconds kLongestWindow{60};

  /// Requests that ended, per second.
  double get_total_request_rate(std::chrono::nanoseconds window = kLongestWindow) const;
  /// Requests waiting per replica, beyond those that are active.
  double get_avg_queue_depth(std::chrono::nanoseconds window = kLongestWindow) const;
  /// Active requests over replica_max_concurrent_requests, of the average healthy replica.
  double get_avg_capacity_utilization(std::chrono::nanoseconds window = kLongestWindow) const;
  /// Requests of the whole service that were called and not answered.
  double get_avg_ongoing(std::chrono::nanoseconds window = kLongestWindow) const;
  double get_sessions_per_replica() const;

  std::size_t total_sessions = 0;
  std::size_t healthy_replicas = 0;
  std::size_t total_replicas = 0;

  /// One stretch of time, at most a tenth of a second while there was traffic.
  struct Interval {
    std::chrono::nanoseconds begin;  ///< before the snapshot
    std::chrono::nanoseconds end;    ///< before the snapshot; less than begin
    double requests;                 ///< that ended
    double queue_time;               ///< ns × requests that waited, per replica
    double busy_time;                ///< ns × utilization, per replica
    double ongoing_time;             ///< ns × requests that were not answered, of all replicas
  };
  std::vector<Interval> intervals;  ///< oldest first; nothing happened between them
  std::chrono::nanoseconds age{0};  ///< of the service

 private:
  std::chrono::nanoseconds clip(std::chrono::nanoseconds window) const;
  double integral(std::chrono::nanoseconds window, double Interval::*what) const;
};

}  // namespace forge
