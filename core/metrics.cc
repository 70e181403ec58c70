#include <forge/metrics.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

namespace forge {
namespace {

constexpr double kNsPerSecond = 1e9;

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / kNsPerSecond; }

nlohmann::ordered_json json_of(const Histogram& histogram) {
  return {{"count", histogram.count()},
          {"mean", histogram.mean()},
          {"p50", histogram.quantile(0.5)},
          {"p99", histogram.quantile(0.99)},
          {"max", histogram.max()}};
}

nlohmann::ordered_json json_of(const ServiceSummary& service) {
  nlohmann::ordered_json json{
      {"total_sessions", service.total_sessions},
      {"healthy_replicas", service.healthy_replicas},
      {"total_replicas", service.total_replicas},
      {"total_request_rate", service.total_request_rate},
      {"avg_queue_depth", service.avg_queue_depth},
      {"avg_capacity_utilization", service.avg_capacity_utilization},
      {"sessions_per_replica", service.sessions_per_replica},
  };
  json["last_scale_event"] = nullptr;
  if (service.last_scale_event) json["last_scale_event"] = *service.last_scale_event;
  json["scale_events"] = service.scale_events;
  return json;
}

void put_times(nlohmann::ordered_json& json, const TimeSplit& time,
               const std::vector<std::uint64_t>& batch_sizes) {
  json["batch_wait"] = json_of(time.batch_wait);
  json["queue"] = json_of(time.queue);
  json["transport"] = json_of(time.transport);
  json["execution"] = json_of(time.execution);
  json["total"] = json_of(time.total);
  for (std::size_t size = 0; size < batch_sizes.size(); ++size) {
    if (const auto count = batch_sizes[size]; count != 0)
      json["batch_sizes"][std::to_string(size)] = count;
  }
}

nlohmann::ordered_json json_of(const ReplicaMetrics& replica) {
  nlohmann::ordered_json json{
      {"total_requests", replica.total_requests},
      {"successful_requests", replica.successful_requests},
      {"failed_requests", replica.failed_requests},
      {"request_rate", replica.request_rate},
      {"avg_latency", replica.avg_latency},
      {"active_requests", replica.active_requests},
      {"queue_depth", replica.queue_depth},
      {"assigned_sessions", replica.assigned_sessions},
      {"capacity_utilization", replica.capacity_utilization},
      {"rejected", replica.rejected},
      {"restarts", replica.restarts},
      {"ring_requests", replica.ring_requests},
  };
  put_times(json, replica.time, replica.batch_sizes);
  if (!replica.devices.empty()) json["devices"] = nlohmann::ordered_json::array();
  for (const DeviceMetrics& device : replica.devices) {
    json["devices"].push_back({{"uuid", device.uuid},
                               {"memory_used", device.memory_used},
                               {"memory_pooled", device.memory_pooled},
                               {"memory_total", device.memory_total}});
  }
  return json;
}

nlohmann::ordered_json json_of(const EndpointMetrics& endpoint) {
  nlohmann::ordered_json json;
  put_times(json, endpoint.time, endpoint.batch_sizes);
  json["failures"] = endpoint.failures;
  json["unheard"] = endpoint.unheard;
  return json;
}

}  // namespace

// ---- Histogram: 32 buckets per power of two, from 32 ns to an hour; one per ns below

namespace {
constexpr int kLinearBits = 5;
constexpr std::uint64_t kLongest = 3'600'000'000'000;
}  // namespace

std::size_t Histogram::bucket_of(std::uint64_t ns) {
  constexpr std::uint64_t kLinear = 1U << kLinearBits;
  if (ns < kLinear) return ns;
  const int shift = std::bit_width(ns) - 1 - kLinearBits;
  return (static_cast<std::size_t>(shift) << kLinearBits) + (ns >> shift);
}

std::uint64_t Histogram::lower_end(std::size_t bucket) {
  constexpr std::size_t kLinear = 1U << kLinearBits;
  if (bucket < kLinear) return bucket;
  const std::size_t shift = (bucket >> kLinearBits) - 1;
  return (bucket - (shift << kLinearBits)) << shift;
}

void Histogram::record(std::chrono::nanoseconds duration) {
  const auto ns = static_cast<std::uint64_t>(
      std::clamp<std::int64_t>(duration.count(), 0, static_cast<std::int64_t>(kLongest)));
  static_assert(std::bit_width(kLongest) - kLinearBits < kBuckets >> kLinearBits);
  ++buckets_[bucket_of(ns)];
  ++count_;
  sum_ns_ += ns;
  max_ns_ = std::max(max_ns_, ns);
}

void Histogram::add(const Histogram& other) {
  for (std::size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ns_ += other.sum_ns_;
  max_ns_ = std::max(max_ns_, other.max_ns_);
}

double Histogram::sum() const { return seconds(sum_ns_); }

double Histogram::mean() const {
  return count_ == 0 ? 0 : seconds(sum_ns_) / static_cast<double>(count_);
}

double Histogram::max() const { return seconds(max_ns_); }

double Histogram::quantile(double q) const {
  if (count_ == 0) return 0;
  const double wanted = std::clamp(q, 0.0, 1.0) * static_cast<double>(count_);
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
    seen += buckets_[bucket];
    if (seen != 0 && static_cast<double>(seen) >= wanted)
      return seconds(std::min((lower_end(bucket) + lower_end(bucket + 1) - 1) / 2, max_ns_));
  }
  return max();
}

std::vector<std::uint64_t> Histogram::counts_below(
    std::span<const std::chrono::nanoseconds> limits) const {
  std::vector<std::uint64_t> counts;
  counts.reserve(limits.size());
  std::uint64_t below = 0;
  std::size_t bucket = 0;
  for (const std::chrono::nanoseconds limit : limits) {
    const auto ns = static_cast<std::uint64_t>(std::max<std::int64_t>(0, limit.count()));
    const std::size_t end = ns > kLongest ? kBuckets : bucket_of(ns);
    while (bucket < end) below += buckets_[bucket++];
    counts.push_back(below);
  }
  return counts;
}

// ---- MetricsSummary

std::string MetricsSummary::to_json() const {
  nlohmann::ordered_json json;
  json["service"] = json_of(service);
  json["replicas"] = nlohmann::ordered_json::object();
  for (const auto& [idx, replica] : replicas)
    json["replicas"][std::to_string(idx)] = json_of(replica);
  json["endpoints"] = nlohmann::ordered_json::object();
  for (const auto& [name, endpoint] : endpoints) json["endpoints"][name] = json_of(endpoint);
  json["scaling"] = nlohmann::ordered_json::array();
  for (const ScaleEvent& event : scaling) {
    json["scaling"].push_back(
        {{"ago", event.ago}, {"from", event.from}, {"to", event.to}, {"reason", event.reason}});
  }
  constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;
  return json.dump(2, ' ', false, kReplace);  // names may hold anything
}

// ---- ServiceMetrics

double ServiceMetrics::integral(std::chrono::nanoseconds window, double Interval::*what) const {
  double sum = 0;
  for (const Interval& interval : intervals) {
    const auto length = interval.begin - interval.end;
    const auto inside = std::min(interval.begin, window) - std::min(interval.end, window);
    if (inside <= std::chrono::nanoseconds::zero() || length <= std::chrono::nanoseconds::zero())
      continue;
    sum +=
        interval.*what * static_cast<double>(inside.count()) / static_cast<double>(length.count());
  }
  return sum;
}

std::chrono::nanoseconds ServiceMetrics::clip(std::chrono::nanoseconds window) const {
  if (window <= std::chrono::nanoseconds::zero())
    throw InvalidArgument("a window of metrics must be positive");
  constexpr std::chrono::nanoseconds kShortest(1);
  return std::max(kShortest, std::min({window, std::chrono::nanoseconds(kLongestWindow), age}));
}

double ServiceMetrics::get_total_request_rate(std::chrono::nanoseconds window) const {
  window = clip(window);
  return integral(window, &Interval::requests) * kNsPerSecond / static_cast<double>(window.count());
}

double ServiceMetrics::get_avg_queue_depth(std::chrono::nanoseconds window) const {
  window = clip(window);
  return integral(window, &Interval::queue_time) / static_cast<double>(window.count());
}

double ServiceMetrics::get_avg_capacity_utilization(std::chrono::nanoseconds window) const {
  window = clip(window);
  return integral(window, &Interval::busy_time) / static_cast<double>(window.count());
}

double ServiceMetrics::get_avg_ongoing(std::chrono::nanoseconds window) const {
  window = clip(window);
  return integral(window, &Interval::ongoing_time) / static_cast<double>(window.count());
}

double ServiceMetrics::get_sessions_per_replica() const {
  return total_replicas == 0
             ? 0
             : static_cast<double>(total_sessions) / static_cast<double>(total_replicas);
}

}  // namespace forge
