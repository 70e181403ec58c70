#include "core/statistics.h"

#include <unistd.h>

#include <algorithm>
#include <map>

#include "shm/clock.h"

namespace forge::core {
namespace {

double in_seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

Json status_json(const ReplicaStatus& status) {
  return {{"idx", status.idx},
          {"state", std::string(to_string(status.state))},
          {"healthy", status.healthy},
          {"incarnation", status.incarnation},
          {"pids", status.pids}};
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
  json["p50_s"] = metrics.latency.quantile(0.5);
  json["p99_s"] = metrics.latency.quantile(0.99);
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
            {"batches", 0}};
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
  return {{"replays", counters.replays},       {"retries", counters.retries},
          {"refused", counters.refused},       {"poisoned", counters.poisoned},
          {"violations", counters.violations}, {"takeovers", counters.takeovers},
          {"restored", counters.restored},     {"copied_bytes", counters.copied_bytes}};
}

}  // namespace

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
  return {{"name", launch.name},
          {"actor", launch.actor},
          {"plugin", launch.plugin},
          {"kind", launch.mesh ? "mesh" : "service"},
          {"state", std::string(overview.state)},
          {"uptime_s", in_seconds(overview.age)},
          {"procs", launch.options.procs},
          {"replicas", replicas.size()},
          {"healthy", healthy},
          {"open_calls", overview.open_calls}};
}

Json statistics_of(Engine& engine) {
  const Launch& launch = engine.launch();
  const MetricsSummary metrics = engine.metrics_summary();
  const Overview overview = engine.overview();
  const auto replicas = engine.replicas();
  Json json{{"name", launch.name},
            {"actor", launch.actor},
            {"kind", launch.mesh ? "mesh" : "service"},
            {"state", std::string(overview.state)},
            {"uptime_s", in_seconds(overview.age)},
            {"procs", launch.options.procs},
            {"open_calls", overview.open_calls},
            {"request_rate_per_s", metrics.service.total_request_rate},
            {"sessions", metrics.service.total_sessions},
            {"scale_events", metrics.service.scale_events},
            {"arena_used_bytes", overview.arena_used},
            {"arena_bytes", overview.arena_size}};
  json["replicas"] = Json::array();
  for (const ReplicaStatus& status : replicas) {
    const auto found = metrics.replicas.find(status.idx);
    json["replicas"].push_back(
        replica_json(status, found == metrics.replicas.end() ? ReplicaMetrics{} : found->second));
  }
  json["spares"] = Json::array();
  for (const ReplicaStatus& status : engine.spares()) json["spares"].push_back(status_json(status));
  json["endpoints"] = Json::array();
  for (const auto& endpoint : launch.manifest->endpoints) {
    if (const auto found = metrics.endpoints.find(endpoint.name); found != metrics.endpoints.end())
      json["endpoints"].push_back(endpoint_json(endpoint, found->second));
  }
  json["counters"] = counters_json(engine.counters());
  return json;
}

Json statistics_of(const Identity& identity, const std::vector<std::shared_ptr<Engine>>& engines) {
  Json json{{"controller", to_json(identity)}, {"at_ns", shm::now_ns()}};
  json["services"] = Json::array();
  for (const auto& engine : engines) json["services"].push_back(statistics_of(*engine));
  return json;
}

}  // namespace forge::core
