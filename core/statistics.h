// What those who look in are shown: a view of each service, taken at one time, and the view as JSON. Each
// number there has its unit in its name; numbers without one are counts. "at_ns" is CLOCK_MONOTONIC:
// whoever shows it knows what time that was.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/engine.h"
#include "core/event_log.h"
#include "core/frames.h"

namespace forge::core {

/// Who is asked.
struct Identity {
  std::string name;  ///< ControllerOptions::name
  std::string program;
  SteadyTime born{};

  static Identity of_this_program(std::string name);
};

/// A service, or a mesh, as it stands.
struct ServiceView {
  std::string name;
  std::string actor;
  bool mesh = false;
  int procs = 1;
  Overview overview;
  MetricsSummary metrics;
  std::vector<ReplicaStatus> replicas;
  std::vector<ReplicaStatus> spares;
  ServiceCounters counters;
  std::shared_ptr<const replicas::ActorManifest> manifest;
};

struct ControllerView {
  Identity identity;
  std::vector<ServiceView> services;
};

/// Takes the engine's lock some times, for microseconds each.
ServiceView look_at(Engine& engine);
ControllerView look_at(const Identity& identity,
                       const std::vector<std::shared_ptr<Engine>>& engines);

Json to_json(const Identity& identity);
Json to_json(const Event& event);
Json to_json(const ServiceView& service);
Json to_json(const ControllerView& controller);

/// One line of `forge ps`.
Json summary_of(Engine& engine);

}  // namespace forge::core
