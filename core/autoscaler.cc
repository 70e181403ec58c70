#include "core/autoscaler.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <string>

namespace forge::core {
namespace {

using std::chrono::nanoseconds;

/// A replica is not planned to be busier than that.
constexpr double kBusiest = 0.9;
/// A number that was too few for a rate is so for this share of it, too.
constexpr double kStillTooFew = 0.95;
/// So long is it remembered what a replica could do.
constexpr std::chrono::hours kMemory{24};
/// What the last samples of capacity count for.
constexpr double kLearning = 0.2;
/// A queue that is younger says nothing of who comes.
constexpr std::chrono::seconds kShortLook{2};
/// In that time what waits is to be worked off.
constexpr std::chrono::seconds kWorkOff{60};
/// Between emergencies: what the last one brought must show first.
constexpr std::chrono::seconds kEmergencyPause{5};

ScalingDecision stay(const ScalingInput& input, std::string reason) {
  return {input.replicas, std::move(reason)};
}

}  // namespace

ScalingDecision Autoscaler::decide(const ScalingInput& given, const Wish& said) {
  ScalingInput input = given;
  if (seen_ && input.now < *seen_) input.now = *seen_;  // time does not go back
  seen_ = input.now;
  watch(input);
  ScalingDecision decision = judge(input, said);
  decision.urgent = false;
  if (decision.replicas > input.replicas && input.replicas > 0 && !options_.policy)
    too_few_[input.replicas] = {input.request_rate, input.now};
  if (decision.replicas != input.replicas) {
    last_change_ = input.now;
    waiting_when_up_ = waiting_now(input);
  }
  return decision;
}

void Autoscaler::watch(const ScalingInput& input) {
  const bool idle = input.ongoing <= 0 && input.ongoing_now <= 0 && input.request_rate <= 0;
  if (!idle) {
    idle_since_.reset();
  } else if (!idle_since_) {
    idle_since_ = input.now;
  }
  if (were_starting_ && input.starting == 0) waiting_when_up_ = waiting_now(input);
  were_starting_ = input.starting > 0;
  learn_capacity(input);
}

void Autoscaler::learn_capacity(const ScalingInput& input) {
  if (input.healthy <= 0) {
    saturated_since_.reset();
    return;
  }
  const double queue = std::max(1.0, options_.scale_down_queue_depth);
  if (input.queue_depth_now < queue || input.healthy != saturated_) {
    saturated_since_.reset();
    saturated_ = input.healthy;
  }
  const auto learn = [&](double rate, double weight) {
    capacity_ = knows_capacity(input) ? capacity_ + weight * (rate - capacity_) : rate;
    capacity_at_ = input.now;
  };
  if (input.queue_depth_now >= queue) {
    if (!saturated_since_) {
      saturated_since_ = input.now;
      waiting_when_saturated_ = waiting_now(input);
    }
    if (input.now - *saturated_since_ >= kRecentWindow && input.recent_rate > 0)
      learn(input.recent_rate / input.healthy, kLearning);
  }
  // Where nothing has changed for as long as the average looks back, it says what they do at least.
  const bool settled = input.starting == 0 && input.healthy == input.replicas - input.quarantined &&
                       (!last_change_ || input.now - *last_change_ > options_.look_back);
  const double each = input.request_rate / input.healthy;
  if (!settled) return;
  if (capacity_ > 0 && each > capacity_) learn(each, 1);
  const auto found = too_few_.find(input.replicas);
  if (found != too_few_.end() && input.request_rate > found->second.request_rate)
    too_few_.erase(found);
}

bool Autoscaler::is_emergency(const ScalingInput& input) const {
  const SpreadLoad load = spread(input);
  if (!(load.queue_depth > options_.emergency_queue_depth &&
        load.queue_depth_now > options_.emergency_queue_depth))
    return false;
  if (!last_change_ || input.now - *last_change_ >= options_.min_time_between_events) return true;
  return input.starting == 0 && input.now - *last_change_ >= kEmergencyPause &&
         waiting_now(input) > waiting_when_up_;
}

ScalingDecision Autoscaler::judge(const ScalingInput& input, const Wish& said) {
  if (input.replicas < input.min_replicas) {
    return {input.min_replicas, replicas(input.replicas) + ", fewer than min_replicas " +
                                    std::to_string(input.min_replicas)};
  }
  if (input.replicas > input.max_replicas) {
    return {input.max_replicas, replicas(input.replicas) + ", more than max_replicas " +
                                    std::to_string(input.max_replicas)};
  }
  if (input.replicas == 0 && (input.ongoing_now > 0 || !options_.policy)) return wake(input);
  const bool emergency = is_emergency(input);
  ScalingDecision wanted = wish(input, emergency, said);
  wanted.urgent |= emergency;
  const int bounded = std::clamp(wanted.replicas, input.min_replicas, input.max_replicas);
  if (bounded != wanted.replicas && bounded == input.replicas) {
    wanted.reason += bounded == input.max_replicas ? "; there are max_replicas already"
                                                   : "; there are min_replicas already";
  }
  wanted.replicas = bounded;
  if (wanted.replicas > input.replicas) return grow(input, std::move(wanted), emergency);
  if (wanted.replicas < input.replicas) return shrink(input, std::move(wanted));
  return wanted;
}

ScalingDecision Autoscaler::ask(ScalingPolicy& policy, const ScalingInput& input) {
  try {
    return policy.decide(input);
  } catch (const std::exception& error) {
    return stay(input, std::string("the scaling policy threw: ") + error.what());
  } catch (...) {
    return stay(input, "the scaling policy threw something");
  }
}

ScalingDecision Autoscaler::wish(const ScalingInput& input, bool emergency, const Wish& said) {
  ScalingDecision wanted;
  if (!wanted_since_) wanted_since_ = input.now;
  if (options_.policy) {
    wanted = said ? *said : ask(*options_.policy, input);
  } else if (options_.target_ongoing_requests) {
    wanted = by_target(input);
  } else {
    Least least = least_for_rate(input);
    if (least.replicas < input.replicas) least.reason.clear();
    return thresholds_.decide(options_, input, emergency, least.reason);
  }
  while (!wanted_.empty() && wanted_.back().second <= wanted.replicas) wanted_.pop_back();
  wanted_.emplace_back(input.now, wanted.replicas);
  while (wanted_.front().first < input.now - options_.scale_down_delay) wanted_.pop_front();
  return wanted;
}

ScalingDecision Autoscaler::by_target(const ScalingInput& input) const {
  ScalingDecision wanted = decide_by_target(options_, input);
  // A moment after the beginning, averages are noise.
  if (wanted.replicas > input.replicas && !saturated_since_ &&
      input.now - *wanted_since_ < options_.look_back)
    return stay(input, wanted.reason + "; that is measured for " + seconds(options_.look_back));
  if (const Least least = least_for_rate(input);
      wanted.replicas < std::min(least.replicas, input.replicas)) {
    wanted.replicas = std::min(least.replicas, input.replicas);
    wanted.reason += "; but " + least.reason;
  }
  return wanted;
}

ScalingDecision Autoscaler::wake(const ScalingInput& input) const {
  if (input.ongoing_now <= 0) return stay(input, "no replica, no request");
  int count = options_.scale_up_step;
  if (options_.policy) {
    count = 1;
  } else if (options_.target_ongoing_requests) {
    count = static_cast<int>(
        std::ceil(std::min(input.ongoing_now / *options_.target_ongoing_requests, 1e6)));
  }
  return {std::clamp(count, 1, std::max(1, input.max_replicas)),
          "woken by " + number(input.ongoing_now) + " waiting"};
}

nanoseconds Autoscaler::left_of(nanoseconds cooldown, ScalingTime now) const {
  if (!last_change_) return nanoseconds::zero();
  const nanoseconds least = std::max(cooldown, options_.min_time_between_events);
  return std::max(nanoseconds::zero(), least - (now - *last_change_));
}

bool Autoscaler::knows_capacity(const ScalingInput& input) const {
  return capacity_ > 0 && input.now - capacity_at_ < kMemory;
}

bool Autoscaler::still_measuring(const ScalingInput& input) const {
  return saturated_since_ &&
         input.now - *saturated_since_ < (knows_capacity(input) ? kShortLook : kRecentWindow);
}

/// A6: as many as are needed, if that can be told.
std::optional<int> Autoscaler::enough(const ScalingInput& input) const {
  if (!saturated_since_ || !knows_capacity(input)) return std::nullopt;
  const auto since = std::chrono::duration<double>(input.now - *saturated_since_).count();
  if (since <= 0) return std::nullopt;
  const double waiting = waiting_now(input);
  const double come = capacity_ * input.healthy + (waiting - waiting_when_saturated_) / since;
  const double wanted =
      std::max(0.0, come) + waiting / std::chrono::duration<double>(kWorkOff).count();
  const double count = std::ceil(std::min(wanted / (kBusiest * capacity_), 1e6));
  return static_cast<int>(count) + input.quarantined;
}

/// A3, for both ways: empty if enough are healthy.
static std::string unhealthy(const Autoscaling& options, const ScalingInput& input) {
  const int present = input.replicas - input.starting;
  if (input.healthy >= options.min_healthy_ratio * present) return {};
  return "only " + std::to_string(input.healthy) + " of " + replicas(present) +
         " healthy, less than " + number(options.min_healthy_ratio) + " of them";
}

ScalingDecision Autoscaler::grow(const ScalingInput& input, ScalingDecision wish,
                                 bool emergency) const {
  if (std::string why = unhealthy(options_, input); !why.empty())
    return stay(input, wish.reason + "; but " + why);
  if (!wish.urgent) {
    if (const auto left = left_of(options_.scale_up_cooldown, input.now); left.count() > 0)
      return stay(input, wish.reason + "; the last change is too fresh for " + seconds(left));
  }
  if (options_.policy) return wish;
  if (still_measuring(input))
    return stay(input, wish.reason + "; how fast the queue grows is measured");
  if (const auto count = enough(input)) {
    if (*count <= input.replicas)
      return stay(input,
                  wish.reason + "; but they are enough to work that off in " + seconds(kWorkOff));
    const bool exactly = emergency && by_thresholds();
    wish.replicas = std::min(exactly ? input.max_replicas : wish.replicas, *count);
  }
  return wish;
}

Autoscaler::Least Autoscaler::least_for_rate(const ScalingInput& input) const {
  Least least;
  if (knows_capacity(input)) {
    const double count = std::ceil(std::min(input.request_rate / (kBusiest * capacity_), 1e6));
    least.replicas = static_cast<int>(count) + input.quarantined;
    least.reason = number(input.request_rate) + " requests/s need " + replicas(least.replicas) +
                   ": one answers " + number(capacity_) + "/s";
  }
  for (const auto& [count, then] : too_few_) {
    const bool counts = count >= least.replicas && count < input.replicas &&
                        input.now - then.at < kMemory &&
                        input.request_rate >= kStillTooFew * then.request_rate;
    if (!counts) continue;
    least.replicas = count + 1;
    least.reason =
        replicas(count) + " were too few for " + number(then.request_rate) + " requests/s";
  }
  return least;
}

int Autoscaler::most_wanted(const ScalingInput& input) const {
  if (by_thresholds()) return 0;
  if (input.now - *wanted_since_ < options_.scale_down_delay) return input.replicas;
  return wanted_.front().second;
}

ScalingDecision Autoscaler::shrink(const ScalingInput& input, ScalingDecision wish) const {
  if (input.starting > 0)
    return stay(input, wish.reason + "; but " + replicas(input.starting) + " starting");
  if (std::string why = unhealthy(options_, input); !why.empty())
    return stay(input, wish.reason + "; but " + why);
  if (const auto left = left_of(options_.scale_down_cooldown, input.now); left.count() > 0)
    return stay(input, wish.reason + "; the last change is too fresh for " + seconds(left));
  if (const int most = most_wanted(input); most > wish.replicas) {
    if (most >= input.replicas) {
      return stay(input, wish.reason + "; fewer are not wanted for " +
                             seconds(options_.scale_down_delay) + " yet");
    }
    wish.replicas = most;
  }
  if (const Least least = least_for_rate(input); least.replicas > wish.replicas) {
    if (least.replicas >= input.replicas) return stay(input, wish.reason + "; but " + least.reason);
    wish.replicas = least.replicas;
  }
  if (wish.replicas == 0) {
    const bool idle = idle_since_ && input.now - *idle_since_ >= options_.scale_down_delay;
    if (!idle || input.sessions > 0) {
      if (input.replicas == 1) {
        return stay(input, input.sessions > 0 ? "the last replica has sessions"
                                              : "the last replica is not idle for " +
                                                    seconds(options_.scale_down_delay) + " yet");
      }
      wish.replicas = 1;
    }
  }
  return wish;
}

}  // namespace forge::core
