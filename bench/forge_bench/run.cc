#include "bench/forge_bench/run.h"

#include <algorithm>

#include "bench/forge_bench/kill.h"
#include "bench/forge_bench/text.h"
#include "bench/forge_bench/work.h"

namespace forge::bench {
namespace {

constexpr double kMostDrift = 0.20;
constexpr double kMostLines = 4;
constexpr double kLeastCore = 0.85;

LoadPlan load_plan(const Options& options, const Placement& place) {
  LoadPlan plan;
  plan.clients = options.clients;
  plan.inflight = options.inflight;
  plan.warmup_s = options.warmup_s;
  plan.duration_s = options.duration_s;
  plan.cpus = place.clients;
  plan.title = options.work == Work::echo ? "echo" : "digits";
  return plan;
}

void run_echo(const Options& options, const LoadPlan& plan, const Service& service, Run& run) {
  const auto seed_of = [&](int client) {
    return options.seed * 1'000'003 + static_cast<std::uint64_t>(client);
  };
  if (uses_tensors(options)) {
    run.load = run_load(plan, [&](int client) {
      return TensorWork(service, callees<Tensor(Tensor)>(options, service, client),
                        uses_rows(options), options.payload, seed_of(client));
    });
  } else {
    run.load = run_load(plan, [&](int client) {
      return BytesWork(callees<Bytes(Bytes)>(options, service, client), options.payload,
                       seed_of(client));
    });
  }
}

void run_digits(const Options& options, const LoadPlan& plan, const Service& service, Run& run) {
  std::vector<DigitsWork::Tally> tallies(static_cast<std::size_t>(plan.clients));
  run.load = run_load(plan, [&](int client) {
    return DigitsWork(callees<int(std::vector<float>)>(options, service, client),
                      tallies[static_cast<std::size_t>(client)]);
  });
  DigitsWork::Tally total;
  for (const DigitsWork::Tally& tally : tallies) {
    total.asked += tally.asked;
    total.recognised += tally.recognised;
  }
  if (total.asked > 0) {
    run.accuracy = static_cast<double>(total.recognised) / static_cast<double>(total.asked);
  }
}

/// How many tensors the workers had to copy to make batches of them.
std::uint64_t copied_tensors(const Service& service) {
  std::uint64_t count = 0;
  for (const auto& replica : service.endpoint<std::uint64_t()>("copied_tensors").fanout().get()) {
    count += replica.has_value() ? replica.value() : 0;
  }
  return count;
}

Run run_service(const Options& options) {
  const Placement place = placement(options);
  Controller controller(
      {.name = "forge-bench",
       .log_level = options.kill_every_ms > 0 ? LogLevel::error : LogLevel::warning});
  Service service = start(controller, options, place);
  Run run;
  {
    Killer killer(service, options.kill_every_ms, options.seed);
    const LoadPlan plan = load_plan(options, place);
    if (options.work == Work::echo) {
      run_echo(options, plan, service, run);
    } else {
      run_digits(options, plan, service, run);
    }
    run.kills = killer.stop();
  }
  for (const ReplicaStatus& replica : service.replicas()) {
    run.restarts += replica.incarnation - 1;
  }
  run.counters = service.counters();
  if (uses_rows(options)) run.copied = copied_tensors(service);
  run.metrics = service.get_metrics_summary().endpoints.at(target(options).endpoint);
  service.shutdown();
  return run;
}

}  // namespace

forge::Options service_options(const Options& options, const Placement& place) {
  const std::size_t outstanding =
      static_cast<std::size_t>(options.clients) * static_cast<std::size_t>(options.inflight);
  forge::Options result;
  result.procs = options.procs;
  result.num_replicas = options.replicas;
  result.max_queued_requests = std::max(result.max_queued_requests, static_cast<int>(outstanding));
  // Twice what can be outstanding, because a block is freed a little after its answer has come.
  result.arena_bytes = std::max(result.arena_bytes, 2 * outstanding * (options.payload + 4096));
  result.wait = options.wait;
  result.cpus = place.workers;
  const Target what = target(options);
  result.endpoints[what.endpoint] = what.options;
  return result;
}

Service start(Controller& controller, const Options& options, const Placement& place) {
  const Target what = target(options);
  const ActorFactory actor = controller.load(plugin_path(options, what.plugin)).actor(what.actor);
  try {
    return actor.options(service_options(options, place)).as_service();
  } catch (const InvalidArgument& error) {
    throw UsageError(error.what());  // of an option that forge knows better than we
  }
}

Yardstick yardstick(const Options& options) {
  if (uses_tensors(options)) return {&FloorFigures::slab_gbps, "the bare slab"};
  if (!is_round_trip(options)) return {&FloorFigures::rings_per_s, "a bare ring's one-way rate"};
  if (options.wait == Wait::block) {
    return {&FloorFigures::futex_rtt_ns, "the bare futex round trip"};
  }
  return {&FloorFigures::rings_rtt_ns, "the bare rings' round trip"};
}

SlabShape slab_of(const Options& options) {
  if (!uses_tensors(options)) return {};
  const int rows = uses_rows(options) ? target(options).options.batch_size : 1;
  return {options.payload, static_cast<std::uint32_t>(rows),
          static_cast<std::uint32_t>(
              std::clamp(options.inflight / rows, 1, static_cast<int>(kMostSlabDepth)))};
}

double measured(const Options& options, const LoadResult& load) {
  // Bytes per ns are GB/s.
  if (uses_tensors(options)) {
    return 2 * load.throughput() * static_cast<double>(options.payload) / 1e9;
  }
  return is_round_trip(options) ? load.latency.percentile(0.5) : load.throughput();
}

std::string unsteady(const FloorFigures& before, const FloorFigures& after,
                     double FloorFigures::*figure) {
  const double moved = drift(before.*figure, after.*figure);
  if (moved > kMostDrift) return text("the floor moved by %.0f %% meanwhile", 100 * moved);
  const bool on_rings =
      figure == &FloorFigures::rings_rtt_ns || figure == &FloorFigures::rings_per_s;
  // A median round trip fits between other programs' time slices; a rate is cut by them.
  const bool is_rate = figure == &FloorFigures::rings_per_s || figure == &FloorFigures::slab_gbps;
  for (const FloorFigures* probe : {&before, &after}) {
    if (is_rate && probe->core_share < kLeastCore) {
      return text("other programs took %.0f %% of a core", 100 * (1 - probe->core_share));
    }
    const double lines = probe->rings_rtt_ns / probe->line_rtt_ns;
    if (on_rings && lines > kMostLines) {
      return text("the bare rings took %.1f × a cache line's bounce, so something else ran", lines);
    }
  }
  return "";
}

FloorFigures Runner::probe() { return floor_->probe(probe_s_); }

Run Runner::run(const Options& options) {
  if (floor_ == nullptr) {
    Run run = run_service(options);
    run.withheld = "the floor needs two cores";
    return run;
  }
  if (const SlabShape slab = slab_of(options); slab != floor_->slab()) {
    floor_->use(slab);
    forget();
  }
  const FloorFigures before = last_ ? *last_ : probe();
  last_.reset();
  Run run = run_service(options);
  const FloorFigures after = probe();
  last_ = after;
  compare(options, before, after, run);
  return run;
}

void Runner::compare(const Options& options, const FloorFigures& before, const FloorFigures& after,
                     Run& run) const {
  const auto figure = yardstick(options).figure;
  run.floor = median({before, after});
  run.floor_drift = drift(before.*figure, after.*figure);
  run.withheld = unsteady(before, after, figure);
  if (run.load.latency.count() == 0) run.withheld = "nothing was answered in the measured time";
  if (!run.withheld.empty()) return;
  run.ratio = measured(options, run.load) / ((*run.floor).*figure);
  if (unsteady(before, after, &FloorFigures::rings_rtt_ns).empty()) {
    run.ratio_to_rings = run.load.latency.percentile(0.5) / run.floor->rings_rtt_ns;
  }
}

}  // namespace forge::bench
