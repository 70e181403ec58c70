#include "core/autoscaling_options.h"

#include <forge/metrics.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "core/scaling_rules.h"

namespace forge::core {
namespace {

using std::chrono::nanoseconds;

/// What is wrong, empty if nothing is.
std::string wrong_bounds(const Options& options) {
  if (options.min_replicas && *options.min_replicas < 0)
    return "min_replicas is " + std::to_string(*options.min_replicas) + "; it starts at 0";
  if (options.max_replicas && *options.max_replicas < 1)
    return "max_replicas is " + std::to_string(*options.max_replicas) + "; it starts at 1";
  if (options.autoscaling.enabled && !options.max_replicas)
    return "autoscaling is enabled without max_replicas; say how many there may be";
  const auto [least, most] = replica_bounds(options);
  if (least > most) {
    return "min_replicas " + std::to_string(least) + " is more than max_replicas " +
           std::to_string(most) + "; exchange them, or raise max_replicas";
  }
  if (options.num_replicas < least || options.num_replicas > most) {
    return "num_replicas " + std::to_string(options.num_replicas) +
           ", with which the service starts, is not from min_replicas " + std::to_string(least) +
           " to max_replicas " + std::to_string(most);
  }
  return {};
}

std::string wrong_numbers(const Autoscaling& a) {
  const std::pair<const char*, double> numbers[] = {
      {"scale_up_queue_depth", a.scale_up_queue_depth},
      {"scale_up_capacity", a.scale_up_capacity},
      {"scale_up_request_rate", a.scale_up_request_rate},
      {"emergency_queue_depth", a.emergency_queue_depth},
      {"scale_down_capacity", a.scale_down_capacity},
      {"scale_down_queue_depth", a.scale_down_queue_depth},
      {"min_healthy_ratio", a.min_healthy_ratio}};
  for (const auto& [name, value] : numbers) {
    if (!std::isfinite(value) || value < 0)
      return std::string(name) + " is " + number(value) + "; it is a number from 0 on";
  }
  for (const auto& [name, value] : {std::pair{"scale_up_capacity", a.scale_up_capacity},
                                    std::pair{"scale_down_capacity", a.scale_down_capacity},
                                    std::pair{"min_healthy_ratio", a.min_healthy_ratio}}) {
    if (value > 1)
      return std::string(name) + " is " + number(value) + "; it is a share, from 0 to 1";
  }
  for (const auto& [name, value] : {std::pair{"scale_up_step", a.scale_up_step},
                                    std::pair{"scale_down_step", a.scale_down_step}}) {
    if (value < 1) return std::string(name) + " is " + std::to_string(value) + "; it starts at 1";
  }
  for (const auto& [name, value] :
       {std::pair{"target_ongoing_requests", a.target_ongoing_requests.value_or(1)},
        std::pair{"upscale_smoothing", a.upscale_smoothing},
        std::pair{"downscale_smoothing", a.downscale_smoothing}}) {
    if (!std::isfinite(value) || value <= 0)
      return std::string(name) + " is " + number(value) + "; it must be more than 0";
  }
  return {};
}

std::string wrong_times(const Autoscaling& a) {
  const std::pair<const char*, nanoseconds> times[] = {
      {"scale_down_delay", a.scale_down_delay},
      {"min_time_between_events", a.min_time_between_events},
      {"scale_up_cooldown", a.scale_up_cooldown},
      {"scale_down_cooldown", a.scale_down_cooldown}};
  constexpr std::chrono::hours kLongest{24 * 365};
  for (const auto& [name, time] : times) {
    if (time < nanoseconds::zero() || time > kLongest) {
      return std::string(name) + " is " + seconds(time) + "; it is a time from 0 to a year";
    }
  }
  const nanoseconds longest = ServiceMetrics::kLongestWindow;
  if (a.look_back <= nanoseconds::zero() || a.look_back > longest) {
    return "look_back is " + seconds(a.look_back) +
           "; it must be more than 0, and metrics look back for " + seconds(longest) + " at most";
  }
  return {};
}

/// Load must not be too high and too low at once.
std::string contradiction(const Autoscaling& a) {
  const auto below = [](const char* low, double value, const char* high, double limit) {
    return value < limit ? std::string()
                         : std::string(low) + " " + number(value) + " is not below " + high + " " +
                               number(limit) + ", so replicas would come and go at the same load";
  };
  std::string found = below("scale_down_queue_depth", a.scale_down_queue_depth,
                            "scale_up_queue_depth", a.scale_up_queue_depth);
  if (found.empty()) {
    found = below("scale_down_capacity", a.scale_down_capacity, "scale_up_capacity",
                  a.scale_up_capacity);
  }
  if (found.empty() && a.emergency_queue_depth < a.scale_up_queue_depth) {
    found = "emergency_queue_depth " + number(a.emergency_queue_depth) +
            " is below scale_up_queue_depth " + number(a.scale_up_queue_depth) +
            ", so every queue would be an emergency";
  }
  if (found.empty() && a.policy && a.target_ongoing_requests)
    found = "policy and target_ongoing_requests both say how many; leave one out";
  return found;
}

}  // namespace

ReplicaBounds replica_bounds(const Options& options) {
  const int max = options.max_replicas.value_or(std::max(1, options.num_replicas));
  return {options.min_replicas.value_or(1), max};
}

Status check_autoscaling(const std::string& who, const Options& options) {
  std::string wrong = wrong_bounds(options);
  if (wrong.empty()) wrong = wrong_numbers(options.autoscaling);
  if (wrong.empty()) wrong = wrong_times(options.autoscaling);
  if (wrong.empty()) wrong = contradiction(options.autoscaling);
  if (wrong.empty()) return {};
  return {ErrorCode::invalid_argument, who + wrong};
}

}  // namespace forge::core
