#include "bench/forge_bench/autoscale_report.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/forge_bench/autoscale_plot.h"
#include "bench/forge_bench/duration.h"
#include "bench/forge_bench/report.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostEvents = 24;  // in the text; JSON has all
constexpr double kGoodRatio = 1.25;
constexpr double kFewMisses = 0.01;  // of the requests

double in_seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string clock_time(double seconds) {
  const auto whole = static_cast<long>(seconds);
  return text("%3ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string policy_line(const Autoscaling& a) {
  if (a.target_ongoing_requests) {
    return text("a target of %g ongoing requests per replica, averaged over %g s; fewer after %g s",
                *a.target_ongoing_requests, in_seconds(a.look_back),
                in_seconds(a.scale_down_delay));
  }
  return text(
      "thresholds: up beyond a queue of %g, utilization %g or %g requests/s; fewer below %g and %g "
      "for %g s",
      a.scale_up_queue_depth, a.scale_up_capacity, a.scale_up_request_rate,
      a.scale_down_queue_depth, a.scale_down_capacity, in_seconds(a.scale_down_delay));
}

std::string service_line(const AutoscaleOptions& options, const SimService& service) {
  return text("%d to %d replicas, %d at the start; each executes %d at once and starts in ",
              service.min_replicas, service.max_replicas, service.replicas, service.concurrency) +
         format_seconds(options.start_s) +
         text("; %d active beyond which requests queue", service.max_concurrent);
}

std::string plots(const AutoscaleResult& result) {
  const auto& columns = result.run.columns;
  std::vector<double> rates;
  std::vector<double> replicas;
  std::vector<double> waiting;
  std::vector<double> latency;
  const double width_s = result.traffic.duration_s() / static_cast<double>(columns.size());
  for (const SimColumn& column : columns) {
    rates.push_back(static_cast<double>(column.arrivals) / width_s);
    replicas.push_back(column.replicas);
    waiting.push_back(column.waiting);
    latency.push_back(column.p99_ns);
  }
  const auto plain = [](double value) { return text("%.3g", value); };
  std::string out = plot("requests/s", rates, 3, plain);
  out += plot("replicas", replicas, 5, plain);
  out += plot("waiting", waiting, 3, plain);
  out += plot("p99 latency", latency, 3, [](double value) { return format_ns(value); });
  return out + time_axis(result.traffic.duration_s(), columns.size());
}

std::string events_table(const SimRun& run) {
  if (run.events.empty()) return "no scale events\n";
  std::string out = left("scale events", 14) + "replicas   reason\n";
  for (std::size_t i = 0; i < std::min(run.events.size(), kMostEvents); ++i) {
    const SimEvent& event = run.events[i];
    out += left(clock_time(event.at), 14) + right(std::to_string(event.from), 2) + " → " +
           left(std::to_string(event.to), 2) + "    " + event.reason + "\n";
  }
  if (run.events.size() > kMostEvents)
    out += text("… and %zu more; --json has them all\n", run.events.size() - kMostEvents);
  return out;
}

std::string share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? "0 %"
                    : text("%.3g %%", 100 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string figures(const AutoscaleOptions& options, const AutoscaleResult& result) {
  const SimRun& run = result.run;
  const ForesightPlan& plan = result.plan;
  const std::string missed = "misses of " + format_seconds(options.target_latency_s);
  const auto row = [](const std::string& name, const std::string& policy, const std::string& ahead,
                      const std::string& rest) {
    std::string line = left(name, 22) + right(policy, 14) + right(ahead, 16) + "   " + rest;
    line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
  };
  std::string out = row("", "policy", "all foreseen", "");
  out += row(
      "replica-hours", text("%.2f", run.replica_hours()), text("%.2f", plan.replica_hours()),
      result.ratio() > 0 ? text("%.2f ×", result.ratio()) : "no plan found that misses as rarely");
  out += row(missed, with_commas(run.misses), with_commas(plan.misses),
             share(run.misses, run.requests) + " of " + with_commas(run.requests) + " requests");
  out += row(
      "latency", "p50 " + format_ns(run.latency.percentile(0.5)), "",
      "p99 " + format_ns(run.latency.percentile(0.99)) + ", most " + format_ns(run.latency.max()));
  out += row("changes of direction", std::to_string(run.turns()), "",
             text("in %zu scale events; the traffic has %d steps", run.events.size(),
                  result.traffic.moves()));
  if (run.refused > 0)
    out += row("refused", with_commas(run.refused), "", "the queue was full (max_queued_requests)");
  return out;
}

std::string advice(const AutoscaleOptions& options, const AutoscaleResult& result) {
  const SimRun& run = result.run;
  const Autoscaling& a = options.service.autoscaling;
  const int most = options.service.max_replicas.value_or(1);
  const bool at_most =
      std::ranges::any_of(run.events, [&](const SimEvent& e) { return e.to == most; });
  const bool many =
      static_cast<double>(run.misses) > kFewMisses * static_cast<double>(run.requests);
  const double busy = 0.8 * options.concurrency;
  if (a.target_ongoing_requests && *a.target_ongoing_requests > options.concurrency) {
    return text(
        "a replica executes %d at once: a target above that keeps queues; try "
        "--target-ongoing-requests %g",
        options.concurrency, busy);
  }
  if (many && at_most) return text("it went up to all %d replicas: raise --max-replicas", most);
  if (many && !a.target_ongoing_requests)
    return text("many requests were late: try a target, --target-ongoing-requests %g", busy);
  if (many) {
    return text(
               "many requests were late: lower --target-ongoing-requests, raise --min-replicas, or "
               "keep "
               "--spares for a start sooner than in ") +
           format_seconds(options.start_s);
  }
  if (run.turns() > result.traffic.moves() + 1)
    return "it swings: raise --scale-down-delay, or put the thresholds further apart";
  if (result.ratio() > kGoodRatio && !a.target_ongoing_requests)
    return text("more replicas than needed: try a target, --target-ongoing-requests %g", busy);
  if (result.ratio() > kGoodRatio)
    return "more replicas than needed: raise --target-ongoing-requests or lower --scale-down-delay";
  return "the options of the service: " + as_code(options.service);
}

Json numbers(const SimRun& run) {
  return {{"requests", run.requests},
          {"misses", run.misses},
          {"refused", run.refused},
          {"replica_hours", run.replica_hours()},
          {"p50_ns", run.latency.percentile(0.5)},
          {"p99_ns", run.latency.percentile(0.99)},
          {"max_ns", run.latency.max()},
          {"turns", run.turns()}};
}

}  // namespace

double AutoscaleResult::ratio() const {
  return plan.found && plan.replica_s > 0 ? run.replica_s / plan.replica_s : 0;
}

std::string as_code(const forge::Options& options) {
  const Autoscaling& a = options.autoscaling;
  const Autoscaling usual;
  std::string out =
      text("{.num_replicas = %d, .min_replicas = %d, .max_replicas = %d, ", options.num_replicas,
           options.min_replicas.value_or(1), options.max_replicas.value_or(1));
  out += ".autoscaling = {.enabled = true";
  const auto number = [&](const char* name, double value, double standard) {
    if (value != standard) out += text(", .%s = %g", name, value);
  };
  const auto time = [&](const char* name, std::chrono::nanoseconds value,
                        std::chrono::nanoseconds standard) {
    if (value != standard)
      out += text(", .%s = %lldms", name,
                  static_cast<long long>(
                      std::chrono::duration_cast<std::chrono::milliseconds>(value).count()));
  };
  number("scale_up_queue_depth", a.scale_up_queue_depth, usual.scale_up_queue_depth);
  number("scale_up_capacity", a.scale_up_capacity, usual.scale_up_capacity);
  number("scale_up_request_rate", a.scale_up_request_rate, usual.scale_up_request_rate);
  number("emergency_queue_depth", a.emergency_queue_depth, usual.emergency_queue_depth);
  number("scale_down_capacity", a.scale_down_capacity, usual.scale_down_capacity);
  number("scale_down_queue_depth", a.scale_down_queue_depth, usual.scale_down_queue_depth);
  time("scale_down_delay", a.scale_down_delay, usual.scale_down_delay);
  time("min_time_between_events", a.min_time_between_events, usual.min_time_between_events);
  time("scale_up_cooldown", a.scale_up_cooldown, usual.scale_up_cooldown);
  time("scale_down_cooldown", a.scale_down_cooldown, usual.scale_down_cooldown);
  number("scale_up_step", a.scale_up_step, usual.scale_up_step);
  number("scale_down_step", a.scale_down_step, usual.scale_down_step);
  number("target_ongoing_requests", a.target_ongoing_requests.value_or(0), 0);
  time("look_back", a.look_back, usual.look_back);
  number("upscale_smoothing", a.upscale_smoothing, usual.upscale_smoothing);
  number("downscale_smoothing", a.downscale_smoothing, usual.downscale_smoothing);
  return out + "}}";
}

std::string to_text(const AutoscaleOptions& options, const AutoscaleResult& result) {
  const std::string arrivals = options.poisson ? text(", at random (seed %llu)",
                                                      static_cast<unsigned long long>(options.seed))
                                               : std::string(", evenly spaced");
  std::string out = labelled("autoscale", result.traffic.what + arrivals);
  out += labelled("service", service_line(options, sim_service(options)));
  out += labelled("policy", policy_line(options.service.autoscaling));
  out += "\n" + plots(result) + "\n" + events_table(result.run) + "\n" + figures(options, result);
  return out + "\n" + labelled("next", advice(options, result));
}

Json to_json(const AutoscaleOptions& options, const AutoscaleResult& result) {
  Json json = json_heading("autoscale");
  json["traffic"] = {{"what", result.traffic.what},
                     {"duration_s", result.traffic.duration_s()},
                     {"highest_rate", result.traffic.highest_rate()},
                     {"steps", result.traffic.moves()},
                     {"poisson", options.poisson},
                     {"seed", options.seed}};
  json["options"] = as_code(options.service);
  json["service_time_s"] = options.service_s;
  json["start_time_s"] = options.start_s;
  json["concurrency"] = options.concurrency;
  json["target_latency_s"] = options.target_latency_s;
  json["policy"] = numbers(result.run);
  json["foresight"] = {{"found", result.plan.found},
                       {"replica_hours", result.plan.replica_hours()},
                       {"misses", result.plan.misses},
                       {"interval_s", result.plan.interval_s},
                       {"replicas", result.plan.replicas}};
  json["ratio"] = result.ratio() > 0 ? Json(result.ratio()) : Json();
  json["events"] = Json::array();
  for (const SimEvent& event : result.run.events) {
    json["events"].push_back(
        {{"at_s", event.at}, {"from", event.from}, {"to", event.to}, {"reason", event.reason}});
  }
  json["columns"] = Json::array();
  for (const SimColumn& column : result.run.columns) {
    json["columns"].push_back({{"arrivals", column.arrivals},
                               {"replicas", column.replicas},
                               {"waiting", column.waiting},
                               {"p99_ns", column.p99_ns}});
  }
  return json;
}

}  // namespace forge::bench
