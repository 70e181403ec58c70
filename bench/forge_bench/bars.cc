#include "bench/forge_bench/bars.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>

#include "bench/forge_bench/batch_bars.h"
#include "bench/forge_bench/observe_bars.h"
#include "bench/forge_bench/recovery_bars.h"
#include "bench/forge_bench/service_bars.h"
#include "bench/forge_bench/stress_bars.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

constexpr double kProbeSeconds = 0.3;

void say(const std::string& what) {
  if (::isatty(STDERR_FILENO) == 1) std::fprintf(stderr, "\r\033[K%s", what.c_str());
}

/// Runs until enough of them lie between two probes that agree, but not for ever.
struct Series {
  std::vector<Run> steady;
  std::vector<Run> all;
  std::string trouble;  // of the last run that does not count
};

Series run_series(Runner& runner, const Options& options, int wanted) {
  Series series;
  while (static_cast<int>(series.steady.size()) < wanted &&
         static_cast<int>(series.all.size()) < 3 * wanted) {
    say(text("bars: %s, run %zu of %d", yardstick(options).name, series.steady.size() + 1, wanted));
    Run run = runner.run(options);
    if (run.withheld.empty()) series.steady.push_back(run);
    if (!run.withheld.empty()) series.trouble = run.withheld;
    series.all.push_back(std::move(run));
  }
  return series;
}

std::uint64_t unanswered(const std::vector<Run>& runs) {
  std::uint64_t count = 0;
  for (const Run& run : runs) count += run.load.sent - run.load.answered;
  return count;
}

double median_of(const std::vector<Run>& runs, const std::function<double(const Run&)>& figure) {
  std::vector<double> values;
  values.reserve(runs.size());
  for (const Run& run : runs) values.push_back(figure(run));
  return median(std::move(values));
}

/// Judges `value` of the steady runs against `limit`; too few of them are "noisy", and a wrong
/// answer is a miss whatever the speed.
void judge(Bar& bar, const Series& series, int wanted, bool at_most,
           const std::function<double(const Run&)>& value,
           const std::function<double(const Run&)>& limit) {
  const bool enough = static_cast<int>(series.steady.size()) >= wanted;
  const std::vector<Run>& runs = enough ? series.steady : series.all;
  bar.value = median_of(runs, value);
  bar.limit = median_of(runs, limit);
  const bool met = at_most ? bar.value <= bar.limit : bar.value >= bar.limit;
  bar.verdict = !enough ? Verdict::noisy : met ? Verdict::met : Verdict::missed;
  if (!enough) {
    bar.note += text("; %zu of %zu runs usable: ", series.steady.size(), series.all.size()) +
                series.trouble;
  } else if (series.all.size() > series.steady.size()) {
    bar.note += text("; %zu noisy runs left out", series.all.size() - series.steady.size());
  }
  if (const std::uint64_t lost = unanswered(series.all); lost > 0) {
    bar.verdict = Verdict::missed;
    bar.note += "; " + with_commas(lost) + " requests were not answered rightly";
  }
}

Options base(const BarOptions& options) {
  Options base;
  base.seed = options.seed;
  base.duration_s = options.duration_s;
  base.warmup_s = 0.2;
  base.plugin_dir = options.plugin_dir;
  return base;
}

std::vector<Bar> round_trip_bars(const BarOptions& options, Runner& runner) {
  Options what = base(options);
  what.wait = Wait::spin;
  const Series series = run_series(runner, what, options.runs);
  const auto rings = [](const Run& run) { return run.floor->rings_rtt_ns; };
  const auto at = [](double quantile) {
    return [quantile](const Run& run) { return run.load.latency.percentile(quantile); };
  };
  const double p50 = median_of(series.all, at(0.5));
  const double p99 = median_of(series.all, at(0.99));
  const std::string floor = "rings " + format_ns(median_of(series.all, rings));

  Bar middle{"route().get(), 64 B, spinning: p50", "≤ 3 × rings", "", Verdict::noisy, "", 0, 0};
  middle.note = format_ns(p50) + "; " + floor;
  judge(
      middle, series, options.runs, true, [&](const Run& run) { return at(0.5)(run) / rings(run); },
      [](const Run&) { return 3.0; });
  middle.measured = text("%.2f ×", middle.value);

  Bar tail{"the same: p99", "≤ 10 × rings p50", "", Verdict::noisy, "", 0, 0};
  tail.note = format_ns(p99) + "; " + floor;
  judge(
      tail, series, options.runs, true, [&](const Run& run) { return at(0.99)(run) / rings(run); },
      [](const Run&) { return 10.0; });
  tail.measured = text("%.2f ×", tail.value);
  return {std::move(middle), std::move(tail)};
}

Bar stream_bar(const BarOptions& options, Runner& runner) {
  Options what = base(options);
  what.inflight = 64;
  const Series series = run_series(runner, what, options.runs);
  const auto rings = [](const Run& run) { return run.floor->rings_per_s; };
  Bar bar{"64 B, one client, 64 in flight", "", "", Verdict::noisy, "", 0, 0};
  bar.note = "ring one way " + format_rate(median_of(series.all, rings));
  judge(
      bar, series, options.runs, false, [](const Run& run) { return run.load.throughput(); },
      [&](const Run& run) { return std::min(2e6, rings(run) / 8); });
  bar.target = "≥ " + format_rate(bar.limit);
  bar.measured = format_rate(bar.value);
  return bar;
}

Bar tensor_bar(const BarOptions& options, Runner& runner) {
  Options what = base(options);
  what.payload = std::size_t{1} << 20;
  what.inflight = 4;
  const Series series = run_series(runner, what, options.runs);
  const auto slab = [](const Run& run) { return run.floor->slab_gbps; };
  const auto rate = [&](const Run& run) { return measured(what, run.load); };
  Bar bar{"1 MiB tensors, 4 in flight", "≥ 0.8 × slab", "", Verdict::noisy, "", 0, 0};
  bar.note =
      text("%.1f GB/s; slab %.1f GB/s", median_of(series.all, rate), median_of(series.all, slab));
  judge(
      bar, series, options.runs, false, [&](const Run& run) { return rate(run) / slab(run); },
      [](const Run&) { return 0.8; });
  bar.measured = text("%.2f ×", bar.value);
  return bar;
}

/// 64 rows of 64 KiB, each filled where its batch will lie.
std::vector<Bar> row_bars(const BarOptions& options, Runner& runner) {
  Options what = base(options);
  what.payload = std::size_t{64} << 10;
  what.batch_size = 64;
  what.batch_timeout = std::chrono::seconds(1);  // one that leaves early splits a slab
  what.inflight = 128;
  const Series series = run_series(runner, what, options.runs);
  const auto slab = [](const Run& run) { return run.floor->slab_gbps; };
  const auto rate = [&](const Run& run) { return measured(what, run.load); };
  Bar speed{"64 rows of 64 KiB in place", "≥ 0.9 × slab", "", Verdict::noisy, "", 0, 0};
  speed.note =
      text("%.1f GB/s; slab %.1f GB/s", median_of(series.all, rate), median_of(series.all, slab));
  judge(
      speed, series, options.runs, false, [&](const Run& run) { return rate(run) / slab(run); },
      [](const Run&) { return 0.9; });
  speed.measured = text("%.2f ×", speed.value);

  Bar copies{"the same: rows copied", "0", "", Verdict::met, "", 0, 0};
  std::uint64_t rows = 0;
  std::uint64_t copied = 0;
  for (const Run& run : series.all) {
    rows += run.load.sent;
    copied += run.copied.value_or(0);
  }
  copies.value = static_cast<double>(copied);
  copies.measured = with_commas(copied);
  copies.verdict = copied == 0 ? Verdict::met : Verdict::missed;
  copies.note = "of " + with_commas(rows);
  return {std::move(speed), std::move(copies)};
}

Bar parked_bar(const BarOptions& options, Runner& runner) {
  Options what = base(options);
  what.wait = Wait::block;
  const Series series = run_series(runner, what, options.runs);
  const auto futex = [](const Run& run) { return run.floor->futex_rtt_ns; };
  const auto p50 = [](const Run& run) { return run.load.latency.percentile(0.5); };
  Bar bar{"parked round trip (block): p50", "≤ 1.5 × futex", "", Verdict::noisy, "", 0, 0};
  bar.note =
      format_ns(median_of(series.all, p50)) + "; futex " + format_ns(median_of(series.all, futex));
  judge(
      bar, series, options.runs, true, [&](const Run& run) { return p50(run) / futex(run); },
      [](const Run&) { return 1.5; });
  bar.measured = text("%.2f ×", bar.value);
  return bar;
}

struct Bench {
  const BarOptions& options;
  Runner runner;
  Options base;
};

/// Bars that are measured together.
struct Group {
  const char* name;
  std::vector<Bar> (*measure)(Bench&);
};

constexpr Group kGroups[] = {
    {"round-trip", [](Bench& b) { return round_trip_bars(b.options, b.runner); }},
    {"stream", [](Bench& b) { return std::vector{stream_bar(b.options, b.runner)}; }},
    {"tensors", [](Bench& b) { return std::vector{tensor_bar(b.options, b.runner)}; }},
    {"rows", [](Bench& b) { return row_bars(b.options, b.runner); }},
    {"parked", [](Bench& b) { return std::vector{parked_bar(b.options, b.runner)}; }},
    {"idle", [](Bench& b) { return std::vector{idle_bar(b.base, b.options.runs)}; }},
    {"allocations", [](Bench& b) { return std::vector{allocation_bar(b.base)}; }},
    {"restart", [](Bench& b) { return std::vector{restart_bar(b.base, b.options.runs)}; }},
    {"deaths", [](Bench& b) { return death_bars(b.base, b.options.runs); }},
    {"spares", [](Bench& b) { return std::vector{spare_bar(b.base, b.options.runs)}; }},
    {"death-cost", [](Bench& b) { return death_cost_bars(b.base, b.options.runs); }},
    {"routers", [](Bench& b) { return std::vector{router_bar(b.options.runs)}; }},
    {"batches", [](Bench& b) { return std::vector{batch_bar(b.base, b.options.runs)}; }},
    {"digits", [](Bench& b) { return digits_bars(b.base, b.runner, b.options.runs); }},
    {"replicas", [](Bench& b) { return many_replicas_bars(b.base); }},
    {"sessions", [](Bench& b) { return many_sessions_bars(b.base); }},
    {"reported", [](Bench& b) { return reported_bars(b.base); }},
    {"watched", [](Bench& b) { return std::vector{watched_bar(b.base, b.options.runs)}; }},
    {"scrape", [](Bench& b) { return scrape_bars(b.base, b.options.runs); }},
};

}  // namespace

std::vector<std::string> bar_names() {
  std::vector<std::string> names;
  for (const Group& group : kGroups) names.emplace_back(group.name);
  return names;
}

std::vector<Bar> measure_bars(const BarOptions& options, Floor& floor) {
  Bench bench{options, Runner(&floor, kProbeSeconds), base(options)};
  std::vector<Bar> bars;
  for (const Group& group : kGroups) {
    const auto& only = options.only;
    if (!only.empty() && std::ranges::find(only, group.name) == only.end()) continue;
    say(std::string("bars: ") + group.name);
    // Probes of the floor are shared by runs that follow each other, not across other work.
    bench.runner.forget();
    for (Bar& bar : group.measure(bench)) bars.push_back(std::move(bar));
  }
  say("");
  return bars;
}

}  // namespace forge::bench
