#include "bench/forge_bench/autoscale_command.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/forge_bench/autoscale_plot.h"
#include "bench/forge_bench/autoscale_report.h"
#include "bench/forge_bench/duration.h"
#include "bench/forge_bench/report.h"
#include "bench/forge_bench/text.h"
#include "core/autoscaler.h"

namespace forge::bench {
namespace {

using std::chrono::nanoseconds;

double in_seconds(nanoseconds time) { return std::chrono::duration<double>(time).count(); }
nanoseconds parse_time(const char* option, const std::string& text) {
  return parse_duration(option, text, std::chrono::days(31));
}

struct Adder {
  CLI::App& app;

  CLI::Option* time(const char* name, double& seconds, const char* help) {
    auto* const option = app.add_option_function<std::string>(
        name,
        [name, &seconds](const std::string& text) { seconds = in_seconds(parse_time(name, text)); },
        help);
    option->type_name("TIME");
    return seconds > 0 ? option->default_str(format_seconds(seconds)) : option;
  }
  void time(const char* name, nanoseconds& value, const char* help) {
    app.add_option_function<std::string>(
           name, [name, &value](const std::string& text) { value = parse_time(name, text); }, help)
        ->type_name("TIME")
        ->default_str(format_seconds(in_seconds(value)));
  }
  // What an option of the service may be is for forge to say.
  template <class T>
  void number(const char* name, T& value, const char* help) {
    app.add_option(name, value, help)->capture_default_str();
  }
  void count(const char* name, int& value, int least, int most, const char* help) {
    app.add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
  }
  void rate(const char* name, double& value, const char* help) {
    app.add_option(name, value, help)
        ->check(CLI::Range(0.0, 1e6) & CLI::Validator(
                                           [](const std::string& text) {
                                             return std::isnan(std::strtod(text.c_str(), nullptr))
                                                        ? text + " is not a number"
                                                        : std::string();
                                           },
                                           ""))
        ->capture_default_str();
  }
};

void add_policy(Adder add, Autoscaling& a) {
  add.number("--scale-up-queue-depth", a.scale_up_queue_depth,
             "More beyond that many waiting, per replica");
  add.number("--scale-up-capacity", a.scale_up_capacity, "More beyond that share of the capacity");
  add.number("--scale-up-request-rate", a.scale_up_request_rate,
             "More beyond that many requests/s per replica, with a queue");
  add.number("--emergency-queue-depth", a.emergency_queue_depth,
             "More without waiting beyond that queue");
  add.number("--scale-down-capacity", a.scale_down_capacity,
             "Fewer below that share of the capacity");
  add.number("--scale-down-queue-depth", a.scale_down_queue_depth, "and that many waiting");
  add.time("--scale-down-delay", a.scale_down_delay, "for so long");
  add.time("--min-time-between-events", a.min_time_between_events, "From any change to the next");
  add.time("--scale-up-cooldown", a.scale_up_cooldown, "From any change to one upwards");
  add.time("--scale-down-cooldown", a.scale_down_cooldown, "From any change to one downwards");
  add.number("--scale-up-step", a.scale_up_step, "Replicas that thresholds add at once");
  add.number("--scale-down-step", a.scale_down_step, "Replicas that thresholds take away at once");
  add.app
      .add_option_function<double>(
          "--target-ongoing-requests", [&a](double value) { a.target_ongoing_requests = value; },
          "A target in place of thresholds: requests executing and waiting, per replica")
      ->type_name("FLOAT");
  add.time("--look-back", a.look_back, "What averages are taken over");
  add.number("--upscale-smoothing", a.upscale_smoothing,
             "Share of the way up to the target, at once");
  add.number("--downscale-smoothing", a.downscale_smoothing, "Share of the way down to it");
}

}  // namespace

void add_autoscale(CLI::App& app, AutoscaleOptions& options) {
  Adder add{app};
  options.service.min_replicas = 1;
  options.service.max_replicas = 20;
  app.add_option(
      "TRACE", options.trace,
      "A file of lines seconds,requests_per_second[,service_ms]; else a pattern is generated");
  app.add_option("--pattern", options.pattern, "step, ramp, diurnal, burst or sawtooth")
      ->check(CLI::IsMember({"step", "ramp", "diurnal", "burst", "sawtooth"}))
      ->default_str("step");
  add.rate("--rate", options.rate, "Requests per second of the pattern, at the least");
  add.rate("--peak", options.peak, "and at the most");
  add.time("--duration", options.duration_s, "Of the pattern; 1 h, diurnal 24 h");
  add.time("--service-time", options.service_s,
           "That a request is executed, where the trace is silent");
  app.add_flag("--evenly{false}", options.poisson, "Requests come evenly spaced, not at random");
  app.add_option("--seed", options.seed, "Of when they come")->capture_default_str();
  add.count("--concurrency", options.concurrency, 1, 10000,
            "Requests that a replica executes at once");
  add.count("--max-concurrent", options.service.replica_max_concurrent_requests, 1, 1'000'000,
            "The service's replica_max_concurrent_requests: what utilization is a share of");
  add.count("--max-queued", options.service.max_queued_requests, 1, 1'000'000'000,
            "The service's max_queued_requests, per replica");
  add.time("--start-time", options.start_s, "Until a new replica serves");
  add.time("--target-latency", options.target_latency_s,
           "Requests that take longer are misses; five service times");
  add.count("--replicas", options.service.num_replicas, 1, 4096, "At the beginning");
  app.add_option("--min-replicas", options.service.min_replicas, "At least")->default_str("1");
  app.add_option("--max-replicas", options.service.max_replicas, "At most")
      ->check(CLI::Range(-1'000'000, 4096))
      ->default_str("20");
  add_policy(add, options.service.autoscaling);
  add.count("--width", options.width, 20, 1000, "Columns of the plot");
  app.add_option("--json", options.json, "Also write the report to this file, as JSON");
}

int run_autoscale(AutoscaleOptions options) {
  const JsonFile json(options.json);
  check(options);
  AutoscaleResult result;
  result.traffic = traffic_of(options);
  const SimService service = sim_service(options);
  core::Autoscaler scaler(options.service.autoscaling);
  const int columns = options.width - static_cast<int>(kPlotLabel);
  result.run = simulate(
      result.traffic, options.poisson, options.seed, service,
      [&](const ScalingInput& input) { return scaler.decide(input); }, columns);
  result.plan =
      plan_ahead(result.traffic, options.poisson, options.seed, service, result.run.misses);
  std::fputs(to_text(options, result).c_str(), stdout);
  json.write(to_json(options, result));
  return 0;
}

}  // namespace forge::bench
