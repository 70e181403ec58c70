#include "core/prometheus/families.h"

#include "core/utf8.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>

namespace forge::core {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Label = ClientMetric::Label;
using Labels = std::vector<Label>;

/// A number of a service.
struct ServiceNumber {
  const char* name;
  MetricType type;
  const char* help;
  double (*value)(const ServiceView&);
};

/// A number of a replica.
struct ReplicaNumber {
  const char* name;
  MetricType type;
  const char* help;
  double (*value)(const ReplicaMetrics&);
};

struct DeviceNumber {
  const char* name;
  const char* help;
  std::uint64_t DeviceMetrics::*value;
};

/// A part of the time of requests; behind "forge_endpoint_" and "forge_replica_".
struct TimePart {
  const char* name;
  const char* help;
  Histogram TimeSplit::*part;
};

template <class T>
double real(T value) {
  return static_cast<double>(value);
}

constexpr ServiceNumber kServiceNumbers[] = {
    {"forge_service_uptime_seconds", MetricType::Gauge, "Since the service began to serve.",
     [](const ServiceView& s) { return std::chrono::duration<double>(s.overview.age).count(); }},
    {"forge_service_spares", MetricType::Gauge, "Warm spares that are up.",
     [](const ServiceView& s) {
       return real(std::ranges::count_if(s.spares, &ReplicaStatus::healthy));
     }},
    {"forge_service_open_requests", MetricType::Gauge, "Called and not answered; fanouts by share.",
     [](const ServiceView& s) { return real(s.overview.open_calls); }},
    {"forge_service_sessions", MetricType::Gauge, "Sessions that are placed on a replica.",
     [](const ServiceView& s) { return real(s.metrics.service.total_sessions); }},
    {"forge_service_arena_bytes", MetricType::Gauge, "Size of the service arena.",
     [](const ServiceView& s) { return real(s.overview.arena_size); }},
    {"forge_service_arena_used_bytes", MetricType::Gauge, "Of it, in payloads and tensors.",
     [](const ServiceView& s) { return real(s.overview.arena_used); }},
    {"forge_service_scale_events_total", MetricType::Counter, "Changes of the number of replicas.",
     [](const ServiceView& s) { return real(s.metrics.service.scale_events); }},
    {"forge_service_replayed_requests_total", MetricType::Counter,
     "Requests that moved after a death, never having started.",
     [](const ServiceView& s) { return real(s.counters.replays); }},
    {"forge_service_retried_requests_total", MetricType::Counter,
     "Idempotent requests that had started and were run again.",
     [](const ServiceView& s) { return real(s.counters.retries); }},
    {"forge_service_poison_requests_total", MetricType::Counter,
     "Requests that killed workers and were given up.",
     [](const ServiceView& s) { return real(s.counters.poisoned); }},
    {"forge_service_refused_answers_total", MetricType::Counter,
     "Answers that did not fit the ledger and were not counted.",
     [](const ServiceView& s) { return real(s.counters.refused); }},
    {"forge_service_protocol_violations_total", MetricType::Counter,
     "Workers that wrote what no worker writes, and were killed.",
     [](const ServiceView& s) { return real(s.counters.violations); }},
    {"forge_service_quarantines_total", MetricType::Counter,
     "Replicas that died too often and were given up.",
     [](const ServiceView& s) { return real(s.counters.quarantines); }},
    {"forge_service_spare_takeovers_total", MetricType::Counter,
     "Replicas that a spare stepped in for.",
     [](const ServiceView& s) { return real(s.counters.takeovers); }},
    {"forge_service_restored_sessions_total", MetricType::Counter,
     "Sessions whose state came back on another replica.",
     [](const ServiceView& s) { return real(s.counters.restored); }},
    {"forge_service_copied_bytes_total", MetricType::Counter,
     "Tensors and byte blocks that were copied into the arena.",
     [](const ServiceView& s) { return real(s.counters.copied_bytes); }},
};

constexpr ReplicaNumber kReplicaNumbers[] = {
    {"forge_replica_rejected_requests_total", MetricType::Counter,
     "Refused with Backpressure; not among the requests.",
     [](const ReplicaMetrics& r) { return real(r.rejected); }},
    {"forge_replica_restarts_total", MetricType::Counter, "Lives after the first.",
     [](const ReplicaMetrics& r) { return real(r.restarts); }},
    {"forge_replica_active_requests", MetricType::Gauge,
     "Executing, at most replica_max_concurrent_requests.",
     [](const ReplicaMetrics& r) { return real(r.active_requests); }},
    {"forge_replica_queued_requests", MetricType::Gauge, "The others that wait for this replica.",
     [](const ReplicaMetrics& r) { return real(r.queue_depth); }},
    {"forge_replica_ring_requests", MetricType::Gauge,
     "In its workers' rings or running there; a ring has 256 slots.",
     [](const ReplicaMetrics& r) { return real(r.ring_requests); }},
    {"forge_replica_sessions", MetricType::Gauge, "Sessions that stick to it.",
     [](const ReplicaMetrics& r) { return real(r.assigned_sessions); }},
    {"forge_replica_utilization_ratio", MetricType::Gauge,
     "Active requests over replica_max_concurrent_requests.",
     [](const ReplicaMetrics& r) { return r.capacity_utilization; }},
};

constexpr DeviceNumber kDeviceNumbers[] = {
    {"forge_device_memory_used_bytes", "Device memory in buffers of the worker.",
     &DeviceMetrics::memory_used},
    {"forge_device_memory_pooled_bytes", "Device memory it keeps for its next buffers.",
     &DeviceMetrics::memory_pooled},
    {"forge_device_memory_bytes", "What the worker's device has.", &DeviceMetrics::memory_total},
};

constexpr TimePart kTimeParts[] = {
    {"batch_wait_seconds", "From the call until its batch left.", &TimeSplit::batch_wait},
    {"queue_seconds", "Then until a worker's ring took it.", &TimeSplit::queue},
    {"transport_seconds", "In rings, both ways, and behind others there.", &TimeSplit::transport},
    {"execution_seconds", "In the endpoint, of a batch the whole.", &TimeSplit::execution},
    {"request_seconds", "From the call until its answer was fetched.", &TimeSplit::total},
};
constexpr const char* kTimed =
    " Of requests that were timed: all below 20000 a second, beyond that every 16th.";
constexpr const char* kBatchHelp = "Elements of batches.";

/// Bounds of times are powers of two, where forge's own buckets end, too: 1 µs, 4 µs, … 69 s for
/// endpoints. Replicas, of which there may be many, have 1 µs, 8 µs, … 137 s.
std::vector<std::chrono::nanoseconds> bounds(int octaves) {
  constexpr int kFirst = 10;
  constexpr int kLast = 37;
  std::vector<std::chrono::nanoseconds> result;
  for (int bits = kFirst; bits <= kLast; bits += octaves)
    result.emplace_back(std::int64_t{1} << bits);
  return result;
}
using Bounds = std::span<const std::chrono::nanoseconds>;

/// Of sizes of batches: powers of two, to 1024.
constexpr std::size_t kLargestBatch = 1024;

ClientMetric::Histogram to_prometheus(const Histogram& times, Bounds bounds) {
  ClientMetric::Histogram result;
  result.sample_count = times.count();
  result.sample_sum = times.sum();
  result.bucket.reserve(bounds.size() + 1);
  const std::vector<std::uint64_t> counts = times.counts_below(bounds);
  for (std::size_t i = 0; i < bounds.size(); ++i)
    result.bucket.push_back({counts[i], std::chrono::duration<double>(bounds[i]).count()});
  result.bucket.push_back({times.count(), std::numeric_limits<double>::infinity()});
  return result;
}

ClientMetric::Histogram to_prometheus(const std::vector<std::uint64_t>& sizes) {
  ClientMetric::Histogram result;
  std::size_t bound = 1;
  for (std::size_t size = 0; size < sizes.size(); ++size) {
    for (; bound <= kLargestBatch && size > bound; bound *= 2)
      result.bucket.push_back({result.sample_count, real(bound)});
    result.sample_count += sizes[size];
    result.sample_sum += real(sizes[size]) * real(size);
  }
  for (; bound <= kLargestBatch; bound *= 2)
    result.bucket.push_back({result.sample_count, real(bound)});
  result.bucket.push_back({result.sample_count, std::numeric_limits<double>::infinity()});
  return result;
}

MetricFamily& add_family(std::vector<MetricFamily>& families, std::string name, std::string help,
                         MetricType type) {
  return families.emplace_back(MetricFamily{std::move(name), std::move(help), type, {}});
}

/// One byte that is no UTF-8 would spoil the whole scrape.
Labels valid(Labels labels) {
  for (Label& label : labels) label.value = valid_utf8(label.value);
  return labels;
}

void add(MetricFamily& family, Labels labels, double value) {
  ClientMetric& metric = family.metric.emplace_back();
  metric.label = valid(std::move(labels));
  (family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
}

void add_histogram(MetricFamily& family, Labels labels, ClientMetric::Histogram histogram) {
  ClientMetric& metric = family.metric.emplace_back();
  metric.label = valid(std::move(labels));
  metric.histogram = std::move(histogram);
}

/// A service with the label that no other has: names may be given twice, series may not.
using Named = std::vector<std::pair<std::string, const ServiceView*>>;

Named name_all(const std::vector<ServiceView>& services) {
  Named named;
  std::map<std::string, int> seen;
  for (const ServiceView& service : services) {
    const std::string name = valid_utf8(service.name);
    const int number = ++seen[name];
    named.emplace_back(name + (number == 1 ? "" : "#" + std::to_string(number)), &service);
  }
  return named;
}

void add_controller(std::vector<MetricFamily>& families, const Identity& identity) {
  add(add_family(families, "forge_info", "The controller.", MetricType::Gauge),
      {{"name", identity.name}, {"program", identity.program}, {"version", FORGE_VERSION}}, 1);
  add(add_family(families, "forge_uptime_seconds", "Since the controller was made.",
                 MetricType::Gauge),
      {}, std::chrono::duration<double>(SteadyClock::now() - identity.born).count());
}

void add_states(std::vector<MetricFamily>& families, const Named& services) {
  MetricFamily& replicas =
      add_family(families, "forge_service_replicas", "Replicas by state.", MetricType::Gauge);
  MetricFamily healthy{"forge_replica_healthy", "Whether it serves.", MetricType::Gauge, {}};
  for (const auto& [name, service] : services) {
    std::array<std::size_t, static_cast<std::size_t>(ReplicaState::stopped) + 1> count{};
    for (const ReplicaStatus& status : service->replicas) {
      ++count[static_cast<std::size_t>(status.state)];
      add(healthy, {{"service", name}, {"replica", std::to_string(status.idx)}},
          status.healthy ? 1 : 0);
    }
    for (std::size_t state = 0; state < count.size(); ++state) {
      const std::string_view text = to_string(static_cast<ReplicaState>(state));
      add(replicas, {{"service", name}, {"state", std::string(text)}}, real(count[state]));
    }
  }
  families.push_back(std::move(healthy));
}

void add_requests(std::vector<MetricFamily>& families, const Named& services) {
  MetricFamily& requests =
      add_family(families, "forge_replica_requests_total",
                 "Requests that ended, deadlines included; a replayed one where it ended.",
                 MetricType::Counter);
  for (const auto& [name, service] : services) {
    for (const auto& [idx, replica] : service->metrics.replicas) {
      const std::string number = std::to_string(idx);
      add(requests, {{"service", name}, {"replica", number}, {"result", "success"}},
          real(replica.successful_requests));
      add(requests, {{"service", name}, {"replica", number}, {"result", "failure"}},
          real(replica.failed_requests));
    }
  }
}

/// By endpoint and code of error.
void add_errors(std::vector<MetricFamily>& families, const Named& services) {
  const auto add_all = [&](const char* name, const char* help,
                           std::map<std::string, std::uint64_t> EndpointMetrics::*counts) {
    MetricFamily& family = add_family(families, name, help, MetricType::Counter);
    for (const auto& [service_name, service] : services) {
      for (const auto& [endpoint, metrics] : service->metrics.endpoints) {
        for (const auto& [code, count] : metrics.*counts)
          add(family, {{"service", service_name}, {"endpoint", endpoint}, {"code", code}},
              real(count));
      }
    }
  };
  add_all("forge_endpoint_failures_total",
          "Requests that ended with an error, those refused at once too; fanouts by share.",
          &EndpointMetrics::failures);
  add_all("forge_endpoint_unheard_errors_total",
          "Errors that nobody received: of broadcasts, dropped futures and their continuations.",
          &EndpointMetrics::unheard);
}

void add_devices(std::vector<MetricFamily>& families, const Named& services) {
  for (const DeviceNumber& number : kDeviceNumbers) {
    MetricFamily family{number.name, number.help, MetricType::Gauge, {}};
    for (const auto& [name, service] : services) {
      for (const auto& [idx, replica] : service->metrics.replicas) {
        for (std::size_t rank = 0; rank < replica.devices.size(); ++rank) {
          const DeviceMetrics& device = replica.devices[rank];
          add(family,
              {{"service", name},
               {"replica", std::to_string(idx)},
               {"rank", std::to_string(rank)},
               {"device", device.uuid}},
              real(device.*number.value));
        }
      }
    }
    if (!family.metric.empty()) families.push_back(std::move(family));
  }
}

bool batches(const ServiceView& service, const std::string& endpoint) {
  return std::ranges::any_of(service.manifest->endpoints, [&](const auto& candidate) {
    return candidate.name == endpoint && candidate.options.batch_size > 1;
  });
}

void add_times(std::vector<MetricFamily>& families, const Named& services) {
  const auto each_endpoint = [&](auto&& add_one) {
    for (const auto& [name, service] : services) {
      for (const auto& [endpoint, metrics] : service->metrics.endpoints) {
        add_one(Labels{{"service", name}, {"endpoint", endpoint}}, metrics,
                batches(*service, endpoint));
      }
    }
  };
  const auto each_replica = [&](auto&& add_one) {
    for (const auto& [name, service] : services) {
      for (const auto& [idx, metrics] : service->metrics.replicas) {
        add_one(Labels{{"service", name}, {"replica", std::to_string(idx)}}, metrics,
                !metrics.batch_sizes.empty());
      }
    }
  };
  const auto add_all = [&](const std::string& whose, Bounds bounds, auto&& each) {
    for (const TimePart& part : kTimeParts) {
      MetricFamily& family = add_family(families, whose + part.name,
                                        std::string(part.help) + kTimed, MetricType::Histogram);
      each([&](Labels labels, const auto& metrics, bool batched) {
        if (batched || part.part != &TimeSplit::batch_wait)
          add_histogram(family, std::move(labels), to_prometheus(metrics.time.*part.part, bounds));
      });
    }
    MetricFamily& sizes =
        add_family(families, whose + "batch_size", kBatchHelp, MetricType::Histogram);
    each([&](Labels labels, const auto& metrics, bool batched) {
      if (batched) add_histogram(sizes, std::move(labels), to_prometheus(metrics.batch_sizes));
    });
  };
  add_all("forge_endpoint_", bounds(2), each_endpoint);
  add_all("forge_replica_", bounds(3), each_replica);
}

}  // namespace

std::vector<MetricFamily> families_of(const ControllerView& controller) {
  std::vector<MetricFamily> families;
  const Named services = name_all(controller.services);
  add_controller(families, controller.identity);
  for (const ServiceNumber& number : kServiceNumbers) {
    MetricFamily& family = add_family(families, number.name, number.help, number.type);
    for (const auto& [name, service] : services)
      add(family, {{"service", name}}, number.value(*service));
  }
  add_states(families, services);
  add_requests(families, services);
  add_errors(families, services);
  for (const ReplicaNumber& number : kReplicaNumbers) {
    MetricFamily& family = add_family(families, number.name, number.help, number.type);
    for (const auto& [name, service] : services) {
      for (const auto& [idx, replica] : service->metrics.replicas)
        add(family, {{"service", name}, {"replica", std::to_string(idx)}}, number.value(replica));
    }
  }
  add_devices(families, services);
  add_times(families, services);
  std::erase_if(families, [](const MetricFamily& family) { return family.metric.empty(); });
  return families;
}

}  // namespace forge::core
