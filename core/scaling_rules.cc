#include "core/scaling_rules.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace forge::core {
namespace {

/// By so much load may lie off the target before the number of replicas follows it. Without that
/// slack, the noise of random arrivals alone would move it.
constexpr double kTolerance = 0.1;

/// Rounding must not ask for another replica.
int round_up(double value) { return static_cast<int>(std::ceil(std::min(value, 1e6) - 1e-9)); }

std::string exceeded(const char* what, double value, double limit) {
  return std::string(what) + " " + number(value) + " > " + number(limit);
}

struct Excess {
  bool is = false;
  std::string reason;
};

/// Which threshold is exceeded, if any: on average, and now too, for a load that has passed needs
/// nobody.
Excess excess(const Autoscaling& options, const SpreadLoad& load) {
  const double queue = load.queue_depth;
  const double utilization = load.utilization;
  const double rate = load.request_rate;
  if (std::min(queue, load.queue_depth_now) > options.scale_up_queue_depth)
    return {true, exceeded("queue depth", queue, options.scale_up_queue_depth)};
  if (std::min(utilization, load.utilization_now) > options.scale_up_capacity)
    return {true, exceeded("capacity utilization", utilization, options.scale_up_capacity)};
  if (rate > options.scale_up_request_rate && queue > 0 &&
      queue >= options.scale_down_queue_depth) {
    return {true, exceeded("request rate", rate, options.scale_up_request_rate) +
                      "/s per replica, with a queue of " + number(queue)};
  }
  return {};
}

}  // namespace

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, std::abs(value) < 10 ? "%.2f" : "%.1f", value);
  std::string result(text);
  while (result.back() == '0') result.pop_back();
  if (result.back() == '.') result.pop_back();
  return result;
}

std::string seconds(std::chrono::nanoseconds duration) {
  return number(std::chrono::duration<double>(duration).count()) + " s";
}

std::string replicas(int count) {
  return std::to_string(count) + (count == 1 ? " replica" : " replicas");
}

SpreadLoad spread(const ScalingInput& input) {
  SpreadLoad load;
  load.serving = input.replicas - input.quarantined;
  const double serving = std::max(1, load.serving);
  load.request_rate = input.request_rate / serving;
  if (input.healthy == 0) {  // all there is waits, and nobody's average says so
    load.queue_depth = input.ongoing / serving;
    load.queue_depth_now = input.ongoing_now / serving;
    return load;
  }
  const double share = std::min(1.0, input.healthy / serving);
  load.queue_depth = input.queue_depth * share;
  load.queue_depth_now = input.queue_depth_now * share;
  load.utilization = input.utilization * share;
  load.utilization_now = input.utilization_now * share;
  return load;
}

double waiting_now(const ScalingInput& input) {
  return input.healthy == 0 ? input.ongoing_now : input.queue_depth_now * input.healthy;
}

// ---- thresholds

ScalingDecision Thresholds::decide(const Autoscaling& options, const ScalingInput& input,
                                   bool emergency, const std::string& needed) {
  const SpreadLoad load = spread(input);
  const int step = options.scale_up_step;
  if (emergency) {
    low_since_.reset();
    return {
        input.replicas + std::max(step, input.replicas),
        "emergency: " + exceeded("queue depth", load.queue_depth, options.emergency_queue_depth)};
  }
  if (Excess found = excess(options, load); found.is) {
    low_since_.reset();
    return {input.replicas + step, std::move(found.reason)};
  }
  const int missing = load.serving - input.healthy;
  if (missing > 0) {
    ScalingInput alone = input;
    alone.replicas = input.healthy;
    alone.quarantined = 0;
    Excess found = excess(options, spread(alone));
    if (input.healthy > 0 && found.is) {
      low_since_.reset();
      return {input.replicas, found.reason + " will pass when all " + replicas(load.serving) +
                                  " serve; " + std::to_string(missing) + " do not yet"};
    }
  }
  return fewer(options, input, needed);
}

ScalingDecision Thresholds::fewer(const Autoscaling& options, const ScalingInput& input,
                                  const std::string& needed) {
  const std::string at = "queue depth " + number(input.queue_depth) + ", capacity utilization " +
                         number(input.utilization);
  const bool low = input.healthy > 0 && input.queue_depth < options.scale_down_queue_depth &&
                   input.utilization < options.scale_down_capacity;
  if (!low) {
    low_since_.reset();
    return {input.replicas, at + ": within the thresholds"};
  }
  if (!needed.empty()) {
    low_since_.reset();
    return {input.replicas, at + ": low; but " + needed};
  }
  if (!low_since_) low_since_ = input.now;
  const auto held = input.now - *low_since_;
  if (held < options.scale_down_delay) {
    return {input.replicas,
            at + ": low for " + seconds(held) + " of " + seconds(options.scale_down_delay)};
  }
  // Those that stay must not be asked for more at once.
  int count = std::max(0, input.replicas - options.scale_down_step);
  const auto too_few = [&](int fewer) {
    return input.utilization * input.healthy > options.scale_up_capacity * fewer ||
           input.queue_depth * input.healthy > options.scale_up_queue_depth * fewer;
  };
  while (count < input.replicas && too_few(count)) ++count;
  return {count, at + ": low for " + seconds(held)};
}

// ---- target

ScalingDecision decide_by_target(const Autoscaling& options, const ScalingInput& input) {
  const double target = *options.target_ongoing_requests;
  const int serving = input.replicas - input.quarantined;
  const double wanted = input.ongoing / target;
  const std::string at = number(input.ongoing) + " ongoing requests on " + replicas(serving) +
                         ", " + number(target) + " each wanted";
  int count = serving;
  // A load that has passed needs nobody, so upwards the present one counts as well.
  if (const double more = std::min(wanted, input.ongoing_now / target);
      more > serving * (1 + kTolerance)) {
    const double way = (round_up(more) - serving) * options.upscale_smoothing;
    count = serving + std::max(1, round_up(way));
  } else if (const int fewest = round_up(wanted / (1 - kTolerance)); fewest < serving) {
    const double way = (serving - fewest) * options.downscale_smoothing;
    count = serving - std::clamp(static_cast<int>(way), 1, serving);
  }
  return {count + input.quarantined, at};
}

}  // namespace forge::core
