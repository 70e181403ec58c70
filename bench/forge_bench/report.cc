#include "bench/forge_bench/report.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "bench/forge_bench/machine.h"
#include "bench/forge_bench/text.h"
#include "bench/forge_bench/time_split.h"

namespace forge::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::pair<const char*, double> kPercentiles[] = {
    {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1}};

double latency(const Run& run, double quantile) {
  return quantile < 1 ? run.load.latency.percentile(quantile) : run.load.latency.max();
}

double median_of(const std::vector<Run>& runs, const std::function<double(const Run&)>& figure) {
  std::vector<double> values;
  values.reserve(runs.size());
  for (const Run& run : runs) values.push_back(figure(run));
  return median(std::move(values));
}

/// Over the runs that have it.
std::optional<double> median_of(const std::vector<Run>& runs, std::optional<double> Run::*figure) {
  std::vector<double> values;
  for (const Run& run : runs) {
    if (run.*figure) values.push_back(*(run.*figure));
  }
  if (values.empty()) return std::nullopt;
  return median(std::move(values));
}

std::optional<FloorFigures> median_floor(const std::vector<Run>& runs) {
  std::vector<FloorFigures> floors;
  for (const Run& run : runs) {
    if (run.floor) floors.push_back(*run.floor);
  }
  if (floors.empty()) return std::nullopt;
  return median(floors);
}

struct Sums {
  LoadResult load;
  ServiceCounters counters;
  std::uint64_t restarts = 0;
  std::uint64_t kills = 0;
  std::uint64_t copied = 0;
};

Sums add_up(const std::vector<Run>& runs) {
  Sums sums;
  for (const Run& run : runs) {
    sums.load.merge(run.load);
    sums.counters.replays += run.counters.replays;
    sums.counters.retries += run.counters.retries;
    sums.counters.refused += run.counters.refused;
    sums.counters.violations += run.counters.violations;
    sums.restarts += run.restarts;
    sums.kills += run.kills;
    sums.copied += run.copied.value_or(0);
  }
  return sums;
}

template <class T>
Json optional_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

void put(Json& json, const ServiceCounters& counters) {
  json["replays"] = counters.replays;
  json["retries"] = counters.retries;
  json["refused_answers"] = counters.refused;
  json["protocol_violations"] = counters.violations;
}

Json latency_json(const std::function<double(double)>& at) {
  Json json = Json::object();
  for (const auto& [name, quantile] : kPercentiles) json[name] = at(quantile);
  return json;
}

Json run_json(const Options& options, const Run& run) {
  const LoadResult& load = run.load;
  Json json;
  json["requests"] = load.sent;
  json["measured_requests"] = load.latency.count();
  json["wrong_answers"] = load.wrong;
  json["errors"] = load.errors;
  put(json, run.counters);
  json["restarts"] = run.restarts;
  json["kills"] = run.kills;
  json["throughput_rps"] = load.throughput();
  json["latency_ns"] = latency_json([&](double quantile) { return latency(run, quantile); });
  if (run.copied) json["copied_rows"] = *run.copied;
  if (run.accuracy) json["accuracy"] = *run.accuracy;
  json["floor"] = run.floor ? to_json(*run.floor) : Json();
  json["floor_drift"] = run.floor_drift;
  json["ratio_to_rings"] = optional_json(run.ratio_to_rings);
  json["ratio"] = optional_json(run.ratio);
  json["ratio_withheld"] = run.withheld.empty() ? Json() : Json(run.withheld);
  if (uses_tensors(options)) json["gbps"] = measured(options, load);
  json["answered_exactly_once"] = load.answered_exactly_once();
  return json;
}

std::string counted(std::uint64_t count, const char* thing, const char* things = nullptr) {
  const std::string plural = things != nullptr ? things : std::string(thing) + "s";
  return with_commas(count) + " " + (count == 1 ? thing : plural);
}

std::string describe(const Options& options) {
  std::string what = options.work == Work::echo
                         ? format_bytes(static_cast<double>(options.payload)) +
                               (uses_tensors(options) ? " tensors" : " payload")
                         : "held-out images";
  const auto number = [](int n) { return static_cast<std::uint64_t>(n); };
  what += ", " + counted(number(options.replicas), "replica") + " of " +
          counted(number(options.procs), "process", "processes");
  what += ", " + counted(number(options.clients), "client") + " with " +
          std::to_string(options.inflight) + " in flight";
  what += std::string(", ") + to_string(options.wait);
  what += text(", %g s after %g s of warm-up, seed %llu", options.duration_s, options.warmup_s,
               static_cast<unsigned long long>(options.seed));
  const EndpointOptions called = target(options).options;
  if (options.sessions > 0) {
    what += ", " + counted(number(options.sessions), "session");
  } else {
    if (called.batch_size > 1) {
      what += text(", batches of %d within ", called.batch_size) +
              format_ns(static_cast<double>(called.batch_timeout.count()));
    }
    if (options.replicas > 1) what += ", " + called.router;
  }
  if (options.kill_every_ms > 0) what += text(", a kill every %d ms", options.kill_every_ms);
  return what;
}

std::string table(const Options& options, const std::vector<Run>& runs) {
  const bool tensors = uses_tensors(options);
  std::string out = left("", 12);
  for (const char* head : {"p50", "p90", "p99", "p99.9", "max"}) out += right(head, 10);
  out += right("throughput", 14) + (tensors ? right("bytes", 12) : "") + right("ratio", 10) + "\n";
  const auto row = [&](const std::string& name, const std::function<double(double)>& at,
                       double throughput, const std::optional<double>& ratio) {
    out += left(name, 12);
    for (const auto& [label, quantile] : kPercentiles) out += right(format_ns(at(quantile)), 10);
    out += right(format_rate(throughput), 14);
    if (tensors) {
      const double bytes = 2 * throughput * static_cast<double>(options.payload);
      out += right(text("%.1f GB/s", bytes / 1e9), 12);
    }
    out += right(ratio ? text("%.2f ×", *ratio) : "-", 10) + "\n";
  };
  for (std::size_t i = 0; runs.size() > 1 && i < runs.size(); ++i) {
    const Run& run = runs[i];
    row(
        "run " + std::to_string(i + 1), [&](double quantile) { return latency(run, quantile); },
        run.load.throughput(), run.ratio);
  }
  row(
      runs.size() > 1 ? "median" : "latency",
      [&](double quantile) {
        return median_of(runs, [&](const Run& run) { return latency(run, quantile); });
      },
      median_of(runs, [](const Run& run) { return run.load.throughput(); }),
      median_of(runs, &Run::ratio));
  return out;
}

std::string errors_line(const LoadResult& load) {
  std::string out;
  for (const auto& [code, count] : load.errors) {
    out += (out.empty() ? "" : ", ") + code + " " + with_commas(count);
  }
  if (load.wrong > 0)
    out += (out.empty() ? "" : ", ") + ("wrong answer " + with_commas(load.wrong));
  if (out.empty()) return "none";
  return load.first_error.empty() ? out : out + "; the first: " + load.first_error;
}

std::string ratio_line(const Options& options, const std::vector<Run>& runs) {
  const auto ratio = median_of(runs, &Run::ratio);
  std::string out = ratio ? text("%.2f × %s", *ratio, yardstick(options).name) : "no verdict";
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].withheld.empty()) continue;
    out += (i == 0 && !ratio ? ": " : "; ");
    if (runs.size() > 1) out += "run " + std::to_string(i + 1) + " has none: ";
    out += runs[i].withheld;
  }
  if (ratio && runs.size() == 1)
    out += text("  (the floor moved by %.0f %%)", 100 * runs[0].floor_drift);
  return out;
}

std::string order_line(const Options& options, const LoadResult& load) {
  if (options.work != Work::echo) return "not looked at: the model remembers nothing";
  const std::string sessions = counted(static_cast<std::uint64_t>(options.sessions), "session");
  return load.errors.contains("actor_error") ? "BROKEN, see errors"
                                             : "kept in each of " + sessions + ", says the actor";
}

std::string last_line(const LoadResult& load) {
  const std::string all = with_commas(load.sent);
  if (load.answered_exactly_once()) return "answered exactly once: yes, all " + all + " requests\n";
  return "answered exactly once: NO, of " + all + " requests " + with_commas(load.answered) +
         " were answered rightly, " + with_commas(load.wrong) + " wrongly, " +
         with_commas(load.failed()) + " with an error\n";
}

}  // namespace

JsonFile::JsonFile(std::string path) : path_(std::move(path)) {
  if (path_.empty()) return;
  if (!std::ofstream(path_, std::ios::app)) {
    throw UsageError("--json: " + path_ + " cannot be written; does its folder exist?");
  }
}

void JsonFile::write(const Json& value) const {
  if (path_.empty()) return;
  std::ofstream out(path_, std::ios::trunc);
  out << value.dump(2) << "\n";
  if (!out.flush()) throw std::runtime_error(path_ + " could not be written");
}

Json json_heading(const char* command) {
  const Build built = build();
  const Machine machine = look_at_machine();
  Json json;
  json["schema"] = "forge-bench/1";
  json["command"] = command;
  json["git"] = built.git;
  json["build"] = {{"version", built.version}, {"compiler", built.compiler}, {"type", built.type}};
  json["machine"] = {{"cpu", machine.cpu},
                     {"cpus", machine.cpus},
                     {"memory_gib", machine.memory_gib},
                     {"kernel", machine.kernel},
                     {"architecture", machine.architecture},
                     {"load", machine.load}};
  json["date"] = machine.date;
  json["clock_cost_ns"] = clock_cost_ns();
  return json;
}

Json to_json(const FloorFigures& floor) {
  return {{"line_rtt_ns", floor.line_rtt_ns},   {"line_p99_ns", floor.line_p99_ns},
          {"rings_rtt_ns", floor.rings_rtt_ns}, {"rings_p99_ns", floor.rings_p99_ns},
          {"rings_per_s", floor.rings_per_s},   {"futex_rtt_ns", floor.futex_rtt_ns},
          {"futex_p99_ns", floor.futex_p99_ns}, {"slab_gbps", floor.slab_gbps},
          {"memcpy_gbps", floor.memcpy_gbps},   {"core_share", floor.core_share}};
}

Json to_json(const Options& options, const std::vector<Run>& runs) {
  const Sums sums = add_up(runs);
  const bool echoes = options.work == Work::echo;
  Json json = json_heading(echoes ? "echo" : "digits");
  json["options"] = {{"replicas", options.replicas},
                     {"procs", options.procs},
                     {"clients", options.clients},
                     {"inflight", options.inflight},
                     {"wait", to_string(options.wait)},
                     {"duration_s", options.duration_s},
                     {"warmup_s", options.warmup_s},
                     {"seed", options.seed},
                     {"cpus", options.cpus},
                     {"repeat", options.repeat},
                     {"kill_every_ms", options.kill_every_ms}};
  if (echoes) json["options"]["payload"] = options.payload;
  const Target called = target(options);
  json["options"]["endpoint"] = called.endpoint;
  json["options"]["batch_size"] = called.options.batch_size;
  json["options"]["batch_timeout_ns"] = called.options.batch_timeout.count();
  json["options"]["router"] = called.options.router;
  json["options"]["sessions"] = options.sessions;
  json["requests"] = sums.load.sent;
  json["wrong_answers"] = sums.load.wrong;
  json["errors"] = sums.load.errors;
  put(json, sums.counters);
  json["restarts"] = sums.restarts;
  json["kills"] = sums.kills;
  json["throughput_rps"] = median_of(runs, [](const Run& run) { return run.load.throughput(); });
  json["latency_ns"] = latency_json([&](double quantile) {
    return median_of(runs, [&](const Run& run) { return latency(run, quantile); });
  });
  if (!echoes) json["accuracy"] = optional_json(median_of(runs, &Run::accuracy));
  put_time_split(json, runs);
  const auto floor = median_floor(runs);
  json["floor"] = floor ? to_json(*floor) : Json();
  json["ratio_to_rings"] = optional_json(median_of(runs, &Run::ratio_to_rings));
  json["ratio"] = optional_json(median_of(runs, &Run::ratio));
  json["ratio_of"] = yardstick(options).name;
  json["answered_exactly_once"] = answered_exactly_once(runs);
  json["runs"] = Json::array();
  for (const Run& run : runs) json["runs"].push_back(run_json(options, run));
  return json;
}

bool answered_exactly_once(const std::vector<Run>& runs) {
  return std::all_of(runs.begin(), runs.end(),
                     [](const Run& run) { return run.load.answered_exactly_once(); });
}

std::string labelled(const std::string& label, const std::string& value) {
  return left(label, 12) + value + "\n";
}

std::string machine_line() {
  const Machine machine = look_at_machine();
  const Build built = build();
  return machine.cpu + text(", %d cpus, %.0f GiB, Linux ", machine.cpus, machine.memory_gib) +
         machine.kernel + text(", load %.2f, ", machine.load) + "forge " + built.version + " (" +
         built.git + ", " + built.type + "), " + machine.date;
}

std::string describe(const FloorFigures& floor) {
  return "line " + format_ns(floor.line_rtt_ns) + ", rings " + format_ns(floor.rings_rtt_ns) +
         " and " + format_rate(floor.rings_per_s) + ", futex " + format_ns(floor.futex_rtt_ns) +
         text(", slab %.1f GB/s, memcpy %.1f GB/s", floor.slab_gbps, floor.memcpy_gbps);
}

std::string to_text(const Options& options, const std::vector<Run>& runs) {
  const Sums sums = add_up(runs);
  const bool echoes = options.work == Work::echo;
  std::string out = labelled(echoes ? "echo" : "digits", describe(options));
  out += labelled("machine", machine_line());
  const auto floor = median_floor(runs);
  out += labelled("floor", floor ? describe(*floor) : "not measured: it needs two cores");
  out += "\n" + table(options, runs) + "\n";
  out += time_split_text(options, runs);
  out += labelled("ratio", ratio_line(options, runs));
  out += labelled("requests",
                  with_commas(sums.load.sent) + "; " + counted(sums.counters.replays, "replay") +
                      ", " + counted(sums.counters.retries, "retry", "retries") + ", " +
                      counted(sums.restarts, "restart") + ", " + counted(sums.kills, "kill"));
  if (options.sessions > 0) out += labelled("order", order_line(options, sums.load));
  out += labelled("errors", errors_line(sums.load));
  if (uses_rows(options)) {
    out += labelled("copies", with_commas(sums.copied) + " rows were copied into their batch");
  }
  if (const auto accuracy = median_of(runs, &Run::accuracy)) {
    out += labelled("accuracy", text("%.2f %% of the images asked about", 100 * *accuracy));
  }
  return out + last_line(sums.load);
}

}  // namespace forge::bench
