#include "bench/forge_bench/autoscale_plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

namespace forge::bench {
namespace {

constexpr int kSteps = 8;  // of a bisection

using Need = std::function<double(double work, double margin)>;

/// Replicas busy on average, by interval.
std::vector<double> work_of(const Traffic& traffic, bool poisson, std::uint64_t seed,
                            double interval_s, int concurrency) {
  std::vector<double> work(static_cast<std::size_t>(std::ceil(traffic.duration_s() / interval_s)));
  Arrivals arrivals(traffic, poisson, seed);
  while (const auto arrival = arrivals.next()) {
    const auto index = static_cast<std::size_t>(arrival->at / interval_s);
    work[std::min(index, work.size() - 1)] += arrival->service_s / interval_s / concurrency;
  }
  return work;
}

}  // namespace

ForesightPlan plan_ahead(const Traffic& traffic, bool poisson, std::uint64_t seed,
                         const SimService& service, std::uint64_t misses) {
  ForesightPlan best;
  // Whole seconds, so that it changes when the scaler is asked.
  const double interval = std::clamp(std::round(traffic.duration_s() / 1440), 10.0, 60.0);
  const std::vector<double> work = work_of(traffic, poisson, seed, interval, service.concurrency);

  const auto attempt = [&](const Need& need, double margin) {
    ForesightPlan plan;
    plan.interval_s = interval;
    for (const double share : work) {
      const double wanted = std::ceil(need(share, margin) - 1e-9);
      const int least = share > 0 ? std::max(1, service.min_replicas) : service.min_replicas;
      plan.replicas.push_back(std::clamp(static_cast<int>(std::min(wanted, 1e6)), least,
                                         std::max(least, service.max_replicas)));
    }
    SimService planned = service;
    planned.start_s = 0;
    planned.replicas = plan.replicas.front();
    const SimScaler follow = [&](const ScalingInput& input) {
      const double now = std::chrono::duration<double>(input.now.time_since_epoch()).count();
      const auto index = static_cast<std::size_t>(now / interval);
      return ScalingDecision{plan.replicas[std::min(index, plan.replicas.size() - 1)]};
    };
    const SimRun run = simulate(traffic, poisson, seed, planned, follow, 0);
    plan.replica_s = run.replica_s;
    for (const SimEvent& event : run.events)
      plan.replica_s += std::max(0, event.to - event.from) * service.start_s;
    plan.misses = run.misses;
    plan.found = run.misses <= misses;
    return plan;
  };
  const auto search = [&](const Need& need, double least, double most) {
    for (int step = 0; step < kSteps; ++step) {
      const double middle = (least + most) / 2;
      const ForesightPlan plan = attempt(need, middle);
      (plan.found ? most : least) = middle;
      const bool cheaper = plan.found ? plan.replica_s < best.replica_s : plan.misses < best.misses;
      const bool better = plan.found != best.found ? plan.found : cheaper;
      if (better || best.replicas.empty()) best = plan;
    }
  };
  search([](double load, double margin) { return load * margin; }, 0.7, 4);
  search([](double load, double margin) { return load + margin * std::sqrt(load); }, -1, 6);
  return best;
}

}  // namespace forge::bench
