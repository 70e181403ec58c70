// How close a service on the card comes to a loop written by hand over the same kernels.
#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "bench/forge_bench/gpu_bench.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

/// `over` / `under` as "0.97 ×", and the two of them as a note.
Bar ratio_of(Bar check, double over, double under) {
  check.value = over / under;
  check.measured = text("%.2f ×", check.value);
  return check;
}

std::string number(double value) { return text("%.0f", value); }

mlp::Shape latency_shape() { return {1024, 4, DType::f32}; }

std::vector<std::string> loop_of(const mlp::Shape& shape, int rows, double seconds) {
  return {"mlp",
          "--width",
          std::to_string(shape.width),
          "--depth",
          std::to_string(shape.depth),
          "--rows",
          std::to_string(rows),
          "--seconds",
          text("%g", seconds)};
}

std::vector<Bar> lone_rows(GpuBench& bench, const std::shared_ptr<const MlpRows>& rows) {
  const mlp::Shape shape = rows->shape;
  const auto floor = bench.floor(loop_of(shape, 1, bench.options().duration_s));
  forge::Options options = batches_of(1, shape.width * 4, 1);
  options.wait = Wait::spin;
  const LoadResult load =
      load_mlp(bench.mlp(shape, options), rows, 1, 1, bench.options().duration_s);
  std::vector<Bar> checks;
  for (const auto& [name, quantile, limit] :
       {std::tuple{"p50", 0.5, 2.0}, std::tuple{"p99", 0.99, 3.0}}) {
    const double bare = floor.at(std::string(name) + "_ns").get<double>();
    const double ours = load.latency.percentile(quantile);
    Bar check{.name = text("batch 1, f32 1024 × 4: %s", name),
              .target = text("≤ %.0f × by hand", limit)};
    check.note = format_ns(ours) + "; by hand " + format_ns(bare);
    check = ratio_of(std::move(check), ours, bare);
    const bool right = load.answered_exactly_once();
    if (!right) check.note += "; " + load.first_error;
    checks.push_back(at_most(check, right ? check.value : std::nan(""), limit));
  }
  return checks;
}

Bar many_rows(GpuBench& bench, const std::shared_ptr<const MlpRows>& rows) {
  constexpr int kRows = 32;
  constexpr int kClients = 4;
  const mlp::Shape shape = rows->shape;
  const auto floor = bench.floor(loop_of(shape, kRows, bench.options().duration_s));
  const Service service =
      bench.mlp(shape, batches_of(kRows, shape.width * 4, kClients * 2 * kRows));
  const LoadResult load = load_mlp(service, rows, kClients, 2 * kRows, bench.options().duration_s);
  const double bare = floor.at("rows_per_s").get<double>();
  Bar check{.name = "batch 32, f32 1024 × 4: rows/s", .target = "≥ 0.9 × by hand"};
  check.note = format_rate(load.throughput()) + "; by hand " + format_rate(bare);
  check = ratio_of(std::move(check), load.throughput(), bare);
  if (!load.answered_exactly_once()) check = at_least(check, std::nan(""), 0.9);
  return at_least(check, check.value, 0.9);
}

}  // namespace

std::vector<Bar> latency_checks(GpuBench& bench) {
  const auto rows = std::make_shared<const MlpRows>(latency_shape(), 64, bench.options().seed);
  std::vector<Bar> checks = lone_rows(bench, rows);
  checks.push_back(many_rows(bench, rows));
  return checks;
}

std::vector<Bar> stream_checks(GpuBench& bench) {
  constexpr int kRows = 64;
  constexpr int kClients = 4;
  constexpr std::int64_t kWidth = 65536;  // 256 KiB, so a batch has 16 MiB
  constexpr std::size_t kRowBytes = kWidth * sizeof(float);
  // It also says how many passes take as long as the copy: then overlap matters most.
  const auto floor = bench.floor({"sweep", "--rows", number(kRows), "--row-bytes",
                                  number(static_cast<double>(kRowBytes)), "--seconds",
                                  text("%g", bench.options().duration_s)});
  const int passes = floor.at("passes").get<int>();
  const Service service = bench.sweep(passes, batches_of(kRows, kRowBytes, kClients * kRows));
  const LoadPlan plan{.clients = kClients,
                      .inflight = kRows,
                      .warmup_s = 0.5,
                      .duration_s = bench.options().duration_s};
  const auto run = service.endpoint<Tensor(Tensor)>("run");
  const LoadResult load = run_load(plan, [&](int) { return SweepWork(run, kWidth, passes); });
  const bool right = load.answered_exactly_once();
  const double batch_ns = right ? kRows * 1e9 / load.throughput() : std::nan("");
  const double loop_ns = floor.at("loop_ns").get<double>();
  const double copy_ns = floor.at("copy_ns").get<double>();
  const double compute_ns = floor.at("compute_ns").get<double>();

  Bar engine{.name = "16 MiB batches, end to end", .target = "≥ 0.90 × raw loop"};
  engine.note =
      format_ns(batch_ns) + " a batch; copy and kernels in one stream " + format_ns(loop_ns);
  engine = ratio_of(std::move(engine), loop_ns, batch_ns);
  Bar overlap{.name = "pipeline over max(copy, compute)", .target = "≤ 1.15 ×"};
  overlap.note = format_ns(batch_ns) + " a batch; copy " + format_ns(copy_ns) + ", compute " +
                 format_ns(compute_ns);
  overlap = ratio_of(std::move(overlap), batch_ns, std::max(copy_ns, compute_ns));
  if (!right) engine.note = overlap.note = load.first_error + "; answers were wrong or missing";
  return {at_least(engine, engine.value, 0.90), at_most(overlap, overlap.value, 1.15)};
}

std::vector<Bar> graph_checks(GpuBench& bench) {
  const Service service = bench.mlp({256, 16, DType::f32});
  const auto cost = service.endpoint<double(std::int64_t, int, bool)>("submission_ns");
  constexpr int kRepeats = 512;
  const double graph = cost.route(8, kRepeats, true).get();
  const double launches = cost.route(8, kRepeats, false).get();
  Bar check{.name = "graph replay against launches, CPU time", .target = "≥ 2 × less"};
  check.note =
      "f32 256 × 16, 8 rows: " + format_ns(graph) + "; launch by launch " + format_ns(launches);
  check = ratio_of(std::move(check), launches, graph);
  return {at_least(check, check.value, 2)};
}

std::vector<Bar> copy_checks(GpuBench& bench) {
  const auto floor = bench.floor({"copy"});
  std::vector<Bar> checks;
  for (const auto& [key, name] : {std::pair{"in", "to the device"}, {"out", "from the device"}}) {
    const double ours = floor.at(key).at("registered_gbps").get<double>();
    const double bare = floor.at(key).at("pinned_gbps").get<double>();
    Bar check{.name = std::string("copy of a registered segment ") + name,
              .target = "≥ 0.98 × cudaMallocHost"};
    check.note = text("%.1f GB/s; cudaMallocHost %.1f GB/s", ours, bare);
    if (key == std::string("in")) check.note += "; " + floor.at("how").get<std::string>();
    check = ratio_of(std::move(check), ours, bare);
    checks.push_back(at_least(check, check.value, 0.98));
  }
  return checks;
}

std::vector<Bar> gather_checks(GpuBench& bench) {
  const auto floor = bench.floor({"gather"});
  const auto ns = [&](const char* path) { return floor.at(path).get<double>(); };
  const double best = std::min({ns("copies_ns"), ns("batched_ns"), ns("kernel_ns")});
  const std::string note = "chosen " + format_ns(ns("chosen_ns")) + "; copies " +
                           format_ns(ns("copies_ns")) + ", batched " + format_ns(ns("batched_ns")) +
                           ", kernel " + format_ns(ns("kernel_ns"));
  Bar faster{.name = "64 rows × 4 KiB, chosen path", .target = "≥ 3 × 64 copies"};
  faster.note = note;
  faster = ratio_of(std::move(faster), ns("copies_ns"), ns("chosen_ns"));
  Bar chosen{.name = "64 rows × 4 KiB, choice", .target = "≥ 0.95 × best of three"};
  chosen = ratio_of(std::move(chosen), best, ns("chosen_ns"));
  return {at_least(faster, faster.value, 3), at_least(chosen, chosen.value, 0.95)};
}

std::vector<Bar> ipc_checks(GpuBench& bench) {
  const auto floor = bench.floor({"ipc"});
  const double shared = floor.at("shared_gbps").get<double>();
  const double local = floor.at("local_gbps").get<double>();
  Bar check{.name = "4 GiB of another worker's buffer", .target = "≥ 0.8 × local copy"};
  check.note = text("%.0f GB/s; local %.0f GB/s; checksum %s", shared, local,
                    floor.at("equal").get<bool>() ? "equal" : "DIFFERENT");
  check = ratio_of(std::move(check), shared, local);
  return {at_least(check, floor.at("equal").get<bool>() ? check.value : std::nan(""), 0.8)};
}

}  // namespace forge::bench
