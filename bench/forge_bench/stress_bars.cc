#include "bench/forge_bench/stress_bars.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <thread>

#include "bench/forge_bench/machine.h"
#include "bench/forge_bench/text.h"
#include "bench/forge_bench/work.h"

namespace forge::bench {
namespace {

using namespace std::chrono_literals;

ControllerOptions quiet() { return {.name = "forge-bench", .log_level = LogLevel::error}; }

double resident_bytes_of_workers(const Service& service) {
  double total = 0;
  for (const ReplicaStatus& replica : service.replicas()) {
    for (const int pid : replica.pids) total += resident_bytes(std::to_string(pid));
  }
  return total;
}

/// What this process has from malloc and not given back.
double heap_bytes() {
  const auto info = ::mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd);
}

LoadPlan plan_of(const Options& options) {
  LoadPlan plan;
  plan.clients = options.clients;
  plan.inflight = options.inflight;
  plan.warmup_s = 0;
  plan.duration_s = options.duration_s;
  return plan;
}

Bar answered_bar(std::string name, const LoadResult& load) {
  Bar bar{std::move(name), "each answered once", "", Verdict::met, "", 0, 0};
  bar.value = static_cast<double>(load.sent - load.answered);
  bar.measured = with_commas(load.answered);
  bar.verdict = load.answered_exactly_once() ? Verdict::met : Verdict::missed;
  bar.note = format_rate(load.throughput());
  if (!load.answered_exactly_once()) {
    bar.note += "; of " + with_commas(load.sent) + ", " + with_commas(load.wrong) +
                " wrongly and " + with_commas(load.failed()) + " with an error " + load.first_error;
  }
  return bar;
}

}  // namespace

std::vector<Bar> many_replicas_bars(const Options& base) {
  constexpr int kMany = 64;
  constexpr double kMostGrowth = 1.02;
  constexpr double kMostUneven = 1.2;
  Options options = base;
  options.replicas = kMany;
  options.clients = kMany;
  options.inflight = kMany;
  Controller controller(quiet());
  Service service = start(controller, options, placement(options));
  const auto located = service.endpoint<LocatedWork::Answer(std::int64_t)>("located");
  using Counts = std::vector<std::uint64_t>;
  const auto load = [&](double seconds, Counts& counts) {
    LoadPlan plan = plan_of(options);
    plan.duration_s = seconds;
    std::vector<Counts> of_clients(kMany, Counts(kMany));
    LoadResult result = run_load(plan, [&](int client) {
      return LocatedWork(located, of_clients[static_cast<std::size_t>(client)]);
    });
    counts.assign(kMany, 0);
    for (const Counts& one : of_clients) {
      for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += one[i];
    }
    return result;
  };
  Counts counts;
  load(options.duration_s, counts);  // until pools and threads' heaps are as large as they get
  const double before = resident_bytes("self");
  const double before_workers = resident_bytes_of_workers(service);
  const LoadResult result = load(4 * options.duration_s, counts);
  const double after = resident_bytes("self");
  const double after_workers = resident_bytes_of_workers(service);

  Bar answered = answered_bar("64 replicas, 64 × 64 in flight", result);
  answered.note += ", p50 " + format_ns(result.latency.percentile(0.5)) + ", p99 " +
                   format_ns(result.latency.percentile(0.99));

  Bar even{"the same: most to least per replica", "≤ 1.2", "", Verdict::met, "", 0, kMostUneven};
  const auto [least, most] = std::ranges::minmax(counts);
  even.value = least == 0 ? 1e9 : static_cast<double>(most) / static_cast<double>(least);
  even.measured = text("%.3f", even.value);
  even.verdict = even.value <= even.limit ? Verdict::met : Verdict::missed;
  even.note = "round robin: " + with_commas(least) + " to " + with_commas(most) + " answers";

  Bar flat{"the same: memory afterwards", "≤ 1.02 × before", "", Verdict::met, "", 0, kMostGrowth};
  flat.value = (after + after_workers) / (before + before_workers);
  flat.measured = text("%.3f ×", flat.value);
  flat.verdict = flat.value <= flat.limit ? Verdict::met : Verdict::missed;
  flat.note = "controller " + format_bytes(before) + " → " + format_bytes(after) + ", 64 workers " +
              format_bytes(before_workers) + " → " + format_bytes(after_workers);
  return {std::move(answered), std::move(even), std::move(flat)};
}

std::vector<Bar> many_sessions_bars(const Options& base) {
  constexpr int kSessions = 10'000;
  constexpr std::uint64_t kCalls = 1'000'000;
  constexpr auto kIdle = 1s;
  Options options = base;
  options.replicas = 2;
  options.inflight = 256;
  options.sessions = kSessions;
  const Placement place = placement(options);
  const Target what = target(options);
  forge::Options serving = service_options(options, place);
  serving.session_idle_timeout = kIdle;
  Controller controller(quiet());
  const Service service = controller.load(plugin_path(options, what.plugin))
                              .actor(what.actor)
                              .options(serving)
                              .as_service();
  LoadPlan plan = plan_of(options);
  plan.duration_s = 120;
  const auto load = [&](const Callees<Bytes(Bytes)>& callees, std::uint64_t requests) {
    plan.requests = requests;
    return run_load(plan, [&](int) { return BytesWork(callees, options.payload, base.seed); });
  };
  const auto all = callees<Bytes(Bytes)>(options, service, 0);
  const auto plain = service.endpoint<Bytes(Bytes)>("bytes");
  load({plain}, kCalls / 10);  // until the pools are as large as they get
  const double before = heap_bytes();
  const LoadResult result = load(all, kCalls);
  const std::size_t peak_sessions = service.session_map().size();
  const double peak = heap_bytes();
  // An idle session may live an eighth of the time longer.
  const std::int64_t begin = now_ns();
  const std::int64_t give_up = begin + 10 * std::chrono::nanoseconds(kIdle).count();
  while (!service.session_map().empty() && now_ns() < give_up) std::this_thread::sleep_for(10ms);
  const double waited = static_cast<double>(now_ns() - begin);
  const std::size_t left = service.session_map().size();
  const double after = heap_bytes();

  Bar answered = answered_bar("10,000 sessions, 1 M calls, in order", result);

  Bar gone{
      "the same: left when all are idle", "≤ 5 % of its memory", "", Verdict::met, "", 0, 0.05};
  gone.value = (after - before) / (peak - before);
  gone.measured = text("%.1f %%", 100 * gone.value);
  gone.verdict = left == 0 && gone.value <= gone.limit ? Verdict::met : Verdict::missed;
  gone.note = text("%zu sessions of %zu on the map after ", left, peak_sessions) +
              format_ns(waited) + "; heap " + format_bytes(before) + ", " + format_bytes(peak) +
              " with them, " + format_bytes(after) + " after them";
  return {std::move(answered), std::move(gone)};
}

}  // namespace forge::bench
