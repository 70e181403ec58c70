#include "tools/forge/stats_view.h"

#include <algorithm>
#include <cmath>

#include "tools/forge/commands.h"
#include "tools/forge/text.h"

namespace forge::tool {
namespace {

using core::Json;

/// The events' share of a small screen.
constexpr std::size_t kLeastEvents = 3;
constexpr std::size_t kMostEventsAtOnce = 10;

std::string text(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}
double real(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number() ? found->get<double>() : 0;
}
std::string count(const Json& json, const char* key) {
  return std::to_string(static_cast<std::int64_t>(std::clamp(real(json, key), -1e15, 1e15)));
}
Json list(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_array() ? *found : Json::array();
}

std::string pids(const Json& replica) {
  std::string result;
  for (const Json& pid : list(replica, "pids"))
    result += (result.empty() ? "" : ",") + (pid.is_number_integer() ? pid.dump() : "?");
  return result.empty() ? "-" : result;
}

std::string header(const Json& statistics) {
  const auto found = statistics.find("controller");
  const Json who = found != statistics.end() && found->is_object() ? *found : Json::object();
  const std::string name = text(who, "name");
  return printable("controller " + count(who, "pid") + "  " + text(who, "program") +
                   (name.empty() ? "" : " (" + name + ")") + "  forge " + text(who, "version") +
                   "  up " + format_age(real(who, "uptime_s")) + "  at " +
                   format_time(unix_ms_of(static_cast<std::int64_t>(
                                   std::clamp(real(statistics, "at_ns"), 0.0, 1e18))),
                               false));
}

void append(std::vector<std::string>& lines, const Table& table) {
  lines.emplace_back();
  for (std::string& line : table.lines()) lines.push_back(std::move(line));
}

/// Of all its ranks, one after the other: used and had, by each.
std::string device_memory(const Json& replica) {
  std::string result;
  for (const Json& device : list(replica, "devices")) {
    if (!result.empty()) result += ", ";
    const double held = real(device, "memory_used_bytes") + real(device, "memory_pooled_bytes");
    const double total = real(device, "memory_total_bytes");
    result += total == 0 ? "?" : format_bytes(held) + " of " + format_bytes(total);
  }
  return result.empty() ? "-" : result;
}

bool any_devices(const Json& services) {
  for (const Json& service : services) {
    for (const Json& replica : list(service, "replicas"))
      if (!list(replica, "devices").empty()) return true;
  }
  return false;
}

void add_replicas(Table& table, const Json& service, bool devices) {
  const auto add = [&](std::vector<std::string> row, std::string memory) {
    if (devices) row.push_back(std::move(memory));
    table.add(std::move(row));
  };
  for (const Json& replica : list(service, "replicas")) {
    add({text(service, "name"), count(replica, "idx"), text(replica, "state"),
         count(replica, "incarnation"), pids(replica), count(replica, "queue_depth"),
         count(replica, "active_requests"), format_rate(real(replica, "request_rate_per_s")),
         format_seconds(real(replica, "p50_s")), format_seconds(real(replica, "p99_s")),
         count(replica, "restarts"), count(replica, "sessions"), count(replica, "total_requests"),
         count(replica, "failed_requests")},
        device_memory(replica));
  }
  for (const Json& spare : list(service, "spares")) {
    add({text(service, "name"), "spare", text(spare, "state"), count(spare, "incarnation"),
         pids(spare), "-", "-", "-", "-", "-", "-", "-", "-", "-"},
        "-");
  }
}

void add_endpoints(Table& table, const Json& service) {
  for (const Json& endpoint : list(service, "endpoints")) {
    if (real(endpoint, "timed_requests") == 0) continue;  // nobody calls it
    const bool batches = real(endpoint, "batches") != 0;
    table.add(
        {text(service, "name"), text(endpoint, "name"), format_seconds(real(endpoint, "p50_s")),
         format_seconds(real(endpoint, "p99_s")), format_seconds(real(endpoint, "queue_p99_s")),
         format_seconds(real(endpoint, "execution_p99_s")),
         batches ? std::to_string(std::lround(100 * real(endpoint, "batch_fill"))) + " %" : "-"});
  }
}

}  // namespace

std::vector<std::string> view_of(const Json& statistics) {
  std::vector<std::string> lines{header(statistics)};
  const Json services = list(statistics, "services");
  if (services.empty()) {
    lines.emplace_back();
    lines.emplace_back("It has no service.");
    return lines;
  }
  Table about({"service", "actor", "state", ">replicas", ">open calls", ">rate", ">sessions",
               ">arena", ">of", ">scaled"});
  const bool devices = any_devices(services);
  std::vector<std::string> of_replicas{"service",   ">replica",  "state",  ">life",  ">pids",
                                       ">queue",    ">active",   ">rate",  ">p50",   ">p99",
                                       ">restarts", ">sessions", ">calls", ">failed"};
  if (devices) of_replicas.emplace_back(">device memory");
  Table replicas(std::move(of_replicas));
  Table endpoints(
      {"service", "endpoint", ">p50", ">p99", ">queue p99", ">execution p99", ">batch fill"});
  for (const Json& service : services) {
    if (!service.is_object()) continue;
    const Json all = list(service, "replicas");
    const auto healthy = std::count_if(all.begin(), all.end(), [](const Json& replica) {
      return text(replica, "state") == "healthy";
    });
    about.add({text(service, "name"), text(service, "actor"), text(service, "state"),
               std::to_string(healthy) + "/" + std::to_string(all.size()),
               count(service, "open_calls"), format_rate(real(service, "request_rate_per_s")),
               count(service, "sessions"), format_bytes(real(service, "arena_used_bytes")),
               format_bytes(real(service, "arena_bytes")), count(service, "scale_events")});
    add_replicas(replicas, service, devices);
    add_endpoints(endpoints, service);
  }
  append(lines, about);
  append(lines, replicas);
  if (endpoints.lines().size() > 1) append(lines, endpoints);
  return lines;
}

std::vector<std::string> picture_of(const Json& statistics, const std::vector<Json>& events,
                                    std::size_t rows, std::size_t columns) {
  std::vector<std::string> lines = view_of(statistics);
  const std::size_t most = rows == 0 ? kMostEventsAtOnce : std::max(rows, kLeastEvents + 4);
  std::size_t shown = std::min(events.size(), kMostEventsAtOnce);
  if (rows != 0) {
    // Two lines stand between: a blank one and a title.
    const std::size_t room = most > lines.size() + 2 ? most - lines.size() - 2 : 0;
    shown = std::min(events.size(), std::max(room, kLeastEvents));
    const std::size_t left = most - shown - 2;
    if (lines.size() > left) {
      const std::size_t hidden = lines.size() - left + 1;
      lines.resize(left - 1);
      lines.push_back("… " + std::to_string(hidden) + " more lines; forge stats shows all");
    }
  }
  if (shown != 0) {
    lines.emplace_back();
    lines.emplace_back("Events");
    for (std::size_t i = events.size() - shown; i < events.size(); ++i)
      lines.push_back(event_line(events[i], false));
  }
  if (columns != 0) {
    for (std::string& line : lines) line = cut(line, columns);
  }
  return lines;
}

}  // namespace forge::tool
