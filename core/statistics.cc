#include "core/statistics.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "shm/clock.h"

namespace forge::core {
namespace {

double in_seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

Json status_json(const ReplicaStatus& status) {
  return {{"idx", status.idx},         {"state", std::string(to_string(status.state))},
          {"healthy", status.healthy}, {"incarnation", status.incarnation},
          {"pids", status.pids},       {"reason", status.reason}};
}

Json device_json(const DeviceMetrics& device) {
  return {{"uuid", device.uuid},
          {"memory_used_bytes", device.memory_used},
          {"memory_pooled_bytes", device.memory_pooled},
          {"memory_total_bytes", device.memory_total}};
}

Json replica_json(const ReplicaStatus& status, const ReplicaMetrics& metrics) {
  Json json = status_json(status);
  json["queue_depth"] = metrics.queue_depth;
  json["active_requests"] = metrics.active_requests;
  json["request_rate_per_s"] = metrics.request_rate;
  json["total_requests"] = metrics.total_requests;
  json["failed_requests"] = metrics.failed_requests;
  json["rejected"] = metrics.rejected;
  json["restarts"] = metrics.restarts;
  json["sessions"] = metrics.assigned_sessions;
  json["ring_requests"] = metrics.ring_requests;
  json["p50_s"] = metrics.time.total.quantile(0.5);
  json["p99_s"] = metrics.time.total.quantile(0.99);
  json["devices"] = Json::array();
  for (const DeviceMetrics& device : metrics.devices)
    json["devices"].push_back(device_json(device));
  return json;
}

Json endpoint_json(const replicas::EndpointManifest& endpoint, const EndpointMetrics& metrics) {
  const TimeSplit& time = metrics.time;
  Json json{{"name", endpoint.name},
            {"signature", endpoint.signature},
            {"timed_requests", time.total.count()},
            {"p50_s", time.total.quantile(0.5)},
            {"p99_s", time.total.quantile(0.99)},
            {"queue_p99_s", time.queue.quantile(0.99)},
            {"transport_p99_s", time.transport.quantile(0.99)},
            {"execution_p99_s", time.execution.quantile(0.99)},
            {"batch_size", endpoint.options.batch_size},
            {"batches", 0},
            {"failures", metrics.failures},
            {"unheard", metrics.unheard}};
  std::uint64_t batches = 0;
  std::uint64_t calls = 0;
  for (std::size_t size = 0; size < metrics.batch_sizes.size(); ++size) {
    batches += metrics.batch_sizes[size];
    calls += metrics.batch_sizes[size] * size;
  }
  json["batches"] = batches;
  json["batch_fill"] = nullptr;  // of 1
  if (batches != 0 && endpoint.options.batch_size > 0) {
    json["batch_fill"] =
        static_cast<double>(calls) / (static_cast<double>(batches) * endpoint.options.batch_size);
  }
  return json;
}

Json counters_json(const ServiceCounters& counters) {
  return {{"replays", counters.replays},          {"retries", counters.retries},
          {"refused", counters.refused},          {"poisoned", counters.poisoned},
          {"violations", counters.violations},    {"takeovers", counters.takeovers},
          {"quarantines", counters.quarantines},  {"restored", counters.restored},
          {"copied_bytes", counters.copied_bytes}};
}

}  // namespace

Identity Identity::of_this_program(std::string name) {
  std::error_code none;
  return {std::move(name), std::filesystem::read_symlink("/proc/self/exe", none).filename(),
          SteadyClock::now()};
}

Json to_json(const Identity& identity) {
  return {{"pid", ::getpid()},
          {"name", identity.name},
          {"program", identity.program},
          {"version", FORGE_VERSION},
          {"uptime_s", in_seconds(SteadyClock::now() - identity.born)}};
}

Json to_json(const Event& event) {
  return {{"number", event.number},
          {"at_ns", event.at_ns},
          {"level", std::string(to_string(event.level))},
          {"kind", event.kind},
          {"service", event.service},
          {"replica", event.replica < 0 ? Json(nullptr) : Json(event.replica)},
          {"text", event.text}};
}

Json summary_of(Engine& engine) {
  const Launch& launch = engine.launch();
  const auto replicas = engine.replicas();
  const auto healthy = std::count_if(replicas.begin(), replicas.end(),
                                     [](const ReplicaStatus& status) { return status.healthy; });
  const Overview overview = engine.overview();
  Json troubles = Json::array();
  for (const ReplicaStatus& status : replicas) {
    if (!status.reason.empty()) troubles.push_back(status_json(status));
  }
  return {{"name", launch.name},
          {"actor", launch.actor},
          {"plugin", launch.plugin},
          {"kind", launch.mesh ? "mesh" : "service"},
          {"state", std::string(overview.state)},
          {"uptime_s", in_seconds(overview.age)},
          {"procs", launch.options.procs},
          {"replicas", replicas.size()},
          {"healthy", healthy},
          {"troubles", std::move(troubles)},
          {"open_calls", overview.open_calls}};
}

ServiceView look_at(Engine& engine) {
  const Launch& launch = engine.launch();
  return {.name = launch.name,
          .actor = launch.actor,
          .mesh = launch.mesh,
          .procs = launch.options.procs,
          .overview = engine.overview(),
          .metrics = engine.metrics_summary(),
          .replicas = engine.replicas(),
          .spares = engine.spares(),
          .counters = engine.counters(),
          .manifest = launch.manifest};
}

ControllerView look_at(const Identity& identity,
                       const std::vector<std::shared_ptr<Engine>>& engines) {
  ControllerView view{identity, {}};
  view.services.reserve(engines.size());
  for (const auto& engine : engines) view.services.push_back(look_at(*engine));
  return view;
}

Json to_json(const ServiceView& service) {
  const MetricsSummary& metrics = service.metrics;
  Json json{{"name", service.name},
            {"actor", service.actor},
            {"kind", service.mesh ? "mesh" : "service"},
            {"state", std::string(service.overview.state)},
            {"uptime_s", in_seconds(service.overview.age)},
            {"procs", service.procs},
            {"open_calls", service.overview.open_calls},
            {"request_rate_per_s", metrics.service.total_request_rate},
            {"sessions", metrics.service.total_sessions},
            {"scale_events", metrics.service.scale_events},
            {"arena_used_bytes", service.overview.arena_used},
            {"arena_bytes", service.overview.arena_size}};
  json["replicas"] = Json::array();
  static const ReplicaMetrics kNone;
  for (const ReplicaStatus& status : service.replicas) {
    const auto found = metrics.replicas.find(status.idx);
    json["replicas"].push_back(
        replica_json(status, found == metrics.replicas.end() ? kNone : found->second));
  }
  json["spares"] = Json::array();
  for (const ReplicaStatus& status : service.spares) json["spares"].push_back(status_json(status));
  json["endpoints"] = Json::array();
  for (const auto& endpoint : service.manifest->endpoints) {
    if (const auto found = metrics.endpoints.find(endpoint.name); found != metrics.endpoints.end())
      json["endpoints"].push_back(endpoint_json(endpoint, found->second));
  }
  json["counters"] = counters_json(service.counters);
  return json;
}

Json to_json(const ControllerView& controller) {
  Json json{{"controller", to_json(controller.identity)}, {"at_ns", shm::now_ns()}};
  json["services"] = Json::array();
  for (const ServiceView& service : controller.services)
    json["services"].push_back(to_json(service));
  return json;
}

}  // namespace forge::core
