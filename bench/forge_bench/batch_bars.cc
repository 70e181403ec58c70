#include "bench/forge_bench/batch_bars.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "bench/forge_bench/crowd.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

/// Nanoseconds per decision.
template <class Chosen>
double decision_ns(std::size_t replicas) {
  constexpr int kDecisions = 200'000;
  Chosen router;
  Crowd crowd(replicas);
  const std::int64_t begin = now_ns();
  for (int i = 0; i < kDecisions; ++i) crowd.call(crowd.choose(router));
  return static_cast<double>(now_ns() - begin) / kDecisions;
}

/// The same load in two ways, in turns, so that what else the machine does meets both.
struct Turns {
  std::vector<Run> before;
  std::vector<Run> after;

  std::uint64_t unanswered() const {
    std::uint64_t count = 0;
    for (const auto* runs : {&before, &after}) {
      for (const Run& run : *runs) count += run.load.sent - run.load.answered;
    }
    return count;
  }
  double gain() const {
    std::vector<double> gains;
    for (std::size_t i = 0; i < before.size(); ++i) {
      gains.push_back(after[i].load.throughput() / before[i].load.throughput());
    }
    return median(std::move(gains));
  }
};

template <class Figure>
double median_of(const std::vector<Run>& runs, Figure figure) {
  std::vector<double> values;
  for (const Run& run : runs) values.push_back(figure(run));
  return median(std::move(values));
}
double throughput(const std::vector<Run>& runs) {
  return median_of(runs, [](const Run& run) { return run.load.throughput(); });
}

Turns take_turns(Runner& runner, const Options& before, const Options& after, int rounds) {
  Turns turns;
  for (int i = 0; i < rounds; ++i) {
    turns.before.push_back(runner.run(before));
    turns.after.push_back(runner.run(after));
  }
  return turns;
}

Bar gain_bar(std::string name, const Turns& turns, double limit) {
  Bar bar{std::move(name), text("≥ %g × one by one", limit), "", Verdict::met, "", 0, limit};
  bar.value = turns.gain();
  bar.measured = text("%.2f ×", bar.value);
  bar.verdict = bar.value >= limit ? Verdict::met : Verdict::missed;
  bar.note = format_rate(throughput(turns.after)) + "; one by one " +
             format_rate(throughput(turns.before));
  if (const std::uint64_t lost = turns.unanswered(); lost > 0) {
    bar.verdict = Verdict::missed;
    bar.note += "; " + with_commas(lost) + " requests were not answered rightly";
  }
  return bar;
}

}  // namespace

Bar router_bar(int runs) {
  using Measure = double (*)(std::size_t);
  constexpr std::pair<const char*, Measure> kRouters[] = {
      {"round robin", &decision_ns<RoundRobinRouter>},
      {"least loaded", &decision_ns<LeastLoadedRouter>},
      {"power of two", &decision_ns<PowerOfTwoRouter>},
      {"hash", &decision_ns<HashRouter>}};
  Bar bar{"the slowest router, 16 or 64 replicas", "< 100 ns", "", Verdict::met, "", 0, 100};
  for (const auto& [name, measure] : kRouters) {
    std::vector<double> few, many;
    for (int i = 0; i < 2 * runs; ++i) {
      few.push_back(measure(16));
      many.push_back(measure(64));
    }
    bar.note += text("%s%s %.0f / %.0f", bar.note.empty() ? "ns among 16 / 64: " : ", ", name,
                     median(few), median(many));
    bar.value = std::max({bar.value, median(few), median(many)});
  }
  bar.measured = format_ns(bar.value);
  bar.verdict = bar.value < bar.limit ? Verdict::met : Verdict::missed;
  return bar;
}

Bar batch_bar(const Options& base, int runs) {
  Runner runner(nullptr, 0);  // the ratio is to each other, not to the floor
  Options one_by_one = base;
  one_by_one.inflight = 256;
  Options batched = one_by_one;
  batched.batch_size = 64;
  return gain_bar("64 B in batches of 64, 256 in flight",
                  take_turns(runner, one_by_one, batched, runs), 2);
}

std::vector<Bar> digits_bars(const Options& base, Runner& runner, int runs) {
  Options batched = base;
  batched.work = Work::digits;
  batched.inflight = 64;
  Options one_by_one = batched;
  one_by_one.batch_size = 1;
  const Turns turns = take_turns(runner, one_by_one, batched, runs);
  const EndpointOptions called = target(batched).options;
  Bar gain = gain_bar(text("digits in batches of %d, 64 in flight", called.batch_size), turns, 4);

  Bar tail{"the same: p99", "≤ timeout + 2 × batch", "", Verdict::met, "", 0, 0};
  const double batch_ns = median_of(
      turns.after, [](const Run& run) { return 1e9 * run.metrics.time.execution.quantile(0.5); });
  tail.limit = static_cast<double>(called.batch_timeout.count()) + 2 * batch_ns;
  // The tail of a run that had to share its cores is that of the other programs.
  std::vector<Run> steady;
  for (const Run& run : turns.after) {
    if (run.withheld.empty()) steady.push_back(run);
  }
  const bool enough = 2 * steady.size() > turns.after.size();
  const std::vector<Run>& judged = enough ? steady : turns.after;
  tail.value = median_of(judged, [](const Run& run) { return run.load.latency.percentile(0.99); });
  tail.measured = format_ns(tail.value);
  tail.note = "timeout " + format_ns(static_cast<double>(called.batch_timeout.count())) +
              ", a batch's execution " + format_ns(batch_ns);
  const bool met = tail.value <= tail.limit;
  tail.verdict = met ? Verdict::met : enough ? Verdict::missed : Verdict::noisy;
  if (!met && !enough) {
    tail.note += text("; %zu of %zu runs usable: ", steady.size(), turns.after.size()) +
                 turns.after.back().withheld;
  }
  return {std::move(gain), std::move(tail)};
}

}  // namespace forge::bench
