#include "bench/forge_bench/autoscale_sim.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <queue>

#include "core/autoscaler.h"

namespace forge::bench {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kPeriod = std::chrono::duration<double>(core::kScalingPeriod).count();
/// What still waits so long after the last arrival is given up.
constexpr double kAfterwards = 3600;

class Simulation {
 public:
  Simulation(const Traffic& traffic, bool poisson, std::uint64_t seed, const SimService& service,
             const SimScaler& scaler, int columns)
      : service_(service),
        scaler_(scaler),
        arrivals_(traffic, poisson, seed),
        end_(traffic.duration_s()),
        columns_(static_cast<std::size_t>(columns)),
        latencies_(columns_) {
    run_.columns.resize(columns_);
  }

  SimRun run() {
    for (int i = 0; i < service_.replicas; ++i) come_up();
    sums_.push_back({});
    auto arrival = arrivals_.next();
    double tick = kPeriod;
    while (now_ < end_ || (open() > 0 && now_ < end_ + kAfterwards)) {
      const double done = executing_.empty() ? kNever : executing_.top().end;
      const double up = starting_.empty() ? kNever : starting_.front();
      const double comes = arrival ? arrival->at : kNever;
      const double next = std::min({done, up, comes, tick});
      advance(next);
      if (done <= next) {
        finish();
      } else if (up <= next) {
        starting_.pop_front();
        come_up();
        dispatch();
      } else if (comes <= next) {
        arrive(*arrival);
        arrival = arrivals_.next();
      } else {
        scale();
        tick += kPeriod;
      }
    }
    run_.misses += open();  // given up
    for (std::size_t i = 0; i < columns_; ++i)
      run_.columns[i].p99_ns = latencies_[i].percentile(0.99);
    return std::move(run_);
  }

 private:
  struct Replica {
    int busy = 0;
    bool draining = false;
  };
  struct Execution {
    double end;
    double arrived;
    std::size_t replica;
    bool operator>(const Execution& other) const { return end > other.end; }
  };
  /// Of what metrics average, from the beginning on.
  struct Sums {
    double queue = 0;
    double utilization = 0;
    double ongoing = 0;
    double done = 0;
  };

  std::size_t open() const { return waiting_.size() + executing_.size(); }
  int count() const { return up_ + static_cast<int>(starting_.size()); }
  double each() const { return up_ == 0 ? 0 : static_cast<double>(open()) / up_; }
  double utilization() const { return std::min(1.0, each() / service_.max_concurrent); }
  double queue_depth() const { return std::max(0.0, each() - service_.max_concurrent); }

  void advance(double to) {
    const double passed = to - now_;
    sum_.queue += passed * queue_depth();
    sum_.utilization += passed * utilization();
    sum_.ongoing += passed * static_cast<double>(open());
    if (now_ < end_) run_.replica_s += (std::min(to, end_) - now_) * (count() + draining_);
    now_ = to;
  }

  void come_up() {
    ++up_;
    replicas_.push_back({});
    for (int i = 0; i < service_.concurrency; ++i) free_.push_back(replicas_.size() - 1);
  }

  void arrive(const Arrival& arrival) {
    ++run_.requests;
    const std::size_t room =
        static_cast<std::size_t>(service_.max_queued) * static_cast<std::size_t>(std::max(1, up_));
    if (SimColumn* const column = column_at(now_)) ++column->arrivals;
    if (waiting_.size() >= room) {
      ++run_.refused;
      ++run_.misses;
      return;
    }
    waiting_.push_back(arrival);
    dispatch();
    if (SimColumn* const column = column_at(now_))
      column->waiting = std::max(column->waiting, static_cast<double>(waiting_.size()));
  }

  void dispatch() {
    while (!waiting_.empty() && !free_.empty()) {
      const std::size_t replica = free_.back();
      free_.pop_back();
      if (replicas_[replica].draining) continue;
      ++replicas_[replica].busy;
      executing_.push({now_ + waiting_.front().service_s, waiting_.front().at, replica});
      waiting_.pop_front();
    }
  }

  void finish() {
    const Execution execution = executing_.top();
    executing_.pop();
    sum_.done += 1;
    Replica& replica = replicas_[execution.replica];
    --replica.busy;
    if (!replica.draining) {
      free_.push_back(execution.replica);
    } else if (replica.busy == 0) {
      --draining_;
    }
    const double latency = execution.end - execution.arrived;
    const auto ns = static_cast<std::int64_t>(latency * 1e9);
    run_.latency.record(ns);
    if (columns_ != 0) latencies_[index_at(execution.arrived)].record(ns);
    if (latency > service_.target_latency_s + 1e-9) ++run_.misses;
    dispatch();
  }

  ScalingInput look() const {
    const auto mean = [&](double Sums::*what, double seconds) {
      const auto back =
          std::min(sums_.size(), static_cast<std::size_t>(std::ceil(seconds / kPeriod)));
      const double over = static_cast<double>(back) * kPeriod;
      return (sum_.*what - sums_[sums_.size() - back].*what) / over;
    };
    ScalingInput input;
    input.replicas = count();
    input.healthy = up_;
    input.starting = static_cast<int>(starting_.size());
    input.min_replicas = service_.min_replicas;
    input.max_replicas = service_.max_replicas;
    input.queue_depth = mean(&Sums::queue, service_.look_back_s);
    input.utilization = mean(&Sums::utilization, service_.look_back_s);
    input.request_rate = mean(&Sums::done, service_.look_back_s);
    input.ongoing = mean(&Sums::ongoing, service_.look_back_s);
    input.recent_rate =
        mean(&Sums::done, std::chrono::duration<double>(core::kRecentWindow).count());
    input.ongoing_now = static_cast<double>(open());
    input.queue_depth_now = queue_depth();
    input.utilization_now = utilization();
    input.now = core::ScalingTime(std::chrono::nanoseconds(std::llround(now_ * 1e9)));
    return input;
  }

  void scale() {
    const int before = count();
    ScalingDecision decision = scaler_(look());
    sums_.push_back(sum_);
    if (sums_.size() > kWindow) sums_.pop_front();
    if (now_ < end_ && decision.replicas != before)
      run_.events.push_back({now_, before, decision.replicas, std::move(decision.reason)});
    for (int i = before; i < decision.replicas; ++i) {
      if (service_.start_s > 0) {
        starting_.push_back(now_ + service_.start_s);
      } else {
        come_up();
      }
    }
    while (count() > decision.replicas && !starting_.empty()) starting_.pop_back();
    while (count() > decision.replicas) drain_one();
    dispatch();
    if (SimColumn* const column = column_at(now_))
      column->replicas = std::max(column->replicas, count());
  }

  /// The one with the least to do.
  void drain_one() {
    Replica* least = nullptr;
    for (Replica& replica : replicas_) {
      if (!replica.draining && (least == nullptr || replica.busy < least->busy)) least = &replica;
    }
    if (least == nullptr) return;
    least->draining = true;
    --up_;
    if (least->busy > 0) ++draining_;
  }

  std::size_t index_at(double seconds) const {
    const auto index = static_cast<std::size_t>(seconds / end_ * static_cast<double>(columns_));
    return std::min(index, columns_ - 1);
  }
  SimColumn* column_at(double seconds) {
    return columns_ == 0 || seconds > end_ ? nullptr : &run_.columns[index_at(seconds)];
  }

  static constexpr std::size_t kWindow = 61;  // periods: the longest window of metrics

  const SimService& service_;
  const SimScaler& scaler_;
  Arrivals arrivals_;
  const double end_;
  const std::size_t columns_;
  SimRun run_;
  std::vector<Histogram> latencies_;  // by column

  double now_ = 0;
  int up_ = 0;
  int draining_ = 0;  // that still execute
  std::deque<double> starting_;
  std::vector<Replica> replicas_;  // all there have ever been
  std::vector<std::size_t> free_;  // a replica for each request it could execute
  std::deque<Arrival> waiting_;
  std::priority_queue<Execution, std::vector<Execution>, std::greater<>> executing_;
  Sums sum_;
  std::deque<Sums> sums_;  // at each of the last ticks
};

}  // namespace

SimService sim_service(const AutoscaleOptions& options) {
  const forge::Options& service = options.service;
  return {.concurrency = options.concurrency,
          .max_concurrent = service.replica_max_concurrent_requests,
          .max_queued = service.max_queued_requests,
          .start_s = options.start_s,
          .replicas = service.num_replicas,
          .min_replicas = service.min_replicas.value_or(1),
          .max_replicas = service.max_replicas.value_or(1),
          .look_back_s = std::chrono::duration<double>(service.autoscaling.look_back).count(),
          .target_latency_s = options.target_latency_s};
}

int SimRun::turns() const {
  int turns = 0;
  int direction = 0;
  for (const SimEvent& event : events) {
    const int towards = event.to > event.from ? 1 : -1;
    if (direction != 0 && towards != direction) ++turns;
    direction = towards;
  }
  return turns;
}

SimRun simulate(const Traffic& traffic, bool poisson, std::uint64_t seed, const SimService& service,
                const SimScaler& scaler, int columns) {
  return Simulation(traffic, poisson, seed, service, scaler, columns).run();
}

}  // namespace forge::bench
