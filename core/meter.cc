#include "core/meter.h"

#include <algorithm>
#include <numeric>

namespace forge::core {
namespace {

/// Shorter stretches are joined: looking often must not cost memory.
constexpr std::chrono::milliseconds kShortest{100};

/// Of the part of [begin, end) that lies after `from`.
double share_after(Timeline::Time from, Timeline::Time begin, Timeline::Time end) {
  if (from <= begin) return 1;
  if (from >= end) return 0;
  return std::chrono::duration<double>(end - from) / std::chrono::duration<double>(end - begin);
}

}  // namespace

std::uint64_t Timeline::roll(Time now, const std::vector<Level>& levels, std::size_t unplaced) {
  Stretch stretch{begin_, now, std::vector<std::uint64_t>(levels.size())};
  const double ns = static_cast<double>(std::chrono::nanoseconds(now - begin_).count());
  double queue = 0;
  double busy = 0;
  double healthy = 0;
  double ongoing = static_cast<double>(unplaced + last_unplaced_) / 2;
  for (std::size_t i = 0; i < levels.size(); ++i) {
    stretch.requests[i] = levels[i].requests - last_[i].requests;
    ongoing += (levels[i].ongoing + last_[i].ongoing) / 2;
    if (!levels[i].healthy) continue;
    healthy += 1;
    // Levels are looked at where stretches meet: in between they are taken to move in a line.
    queue += (levels[i].queue_depth + last_[i].queue_depth) / 2;
    busy += (levels[i].utilization + last_[i].utilization) / 2;
  }
  if (healthy != 0) {
    stretch.queue_time = ns * queue / healthy;
    stretch.busy_time = ns * busy / healthy;
  }
  stretch.ongoing_time = ns * ongoing;
  last_ = levels;
  last_unplaced_ = unplaced;
  begin_ = now;
  const auto requests =
      std::accumulate(stretch.requests.begin(), stretch.requests.end(), std::uint64_t{0});
  Stretch* const before = stretches_.empty() ? nullptr : &stretches_.back();
  if (before != nullptr && before->end == stretch.begin && now - before->begin < kShortest) {
    before->end = now;
    before->queue_time += stretch.queue_time;
    before->busy_time += stretch.busy_time;
    before->ongoing_time += stretch.ongoing_time;
    for (std::size_t i = 0; i < levels.size(); ++i) before->requests[i] += stretch.requests[i];
  } else {
    stretches_.push_back(std::move(stretch));
  }
  while (stretches_.front().end < now - ServiceMetrics::kLongestWindow) stretches_.pop_front();
  return requests;
}

double Timeline::rate(std::size_t replica, Time now, Time born) const {
  const Time from = std::max(born, now - ServiceMetrics::kLongestWindow);
  double requests = 0;
  for (const Stretch& stretch : stretches_) {
    requests += static_cast<double>(stretch.requests[replica]) *
                share_after(from, stretch.begin, stretch.end);
  }
  return now > from ? requests / std::chrono::duration<double>(now - from).count() : 0;
}

std::vector<ServiceMetrics::Interval> Timeline::intervals(Time now) const {
  std::vector<ServiceMetrics::Interval> result;
  result.reserve(stretches_.size());
  for (const Stretch& stretch : stretches_) {
    const auto requests =
        std::accumulate(stretch.requests.begin(), stretch.requests.end(), std::uint64_t{0});
    result.push_back({now - stretch.begin, now - stretch.end, static_cast<double>(requests),
                      stretch.queue_time, stretch.busy_time, stretch.ongoing_time});
  }
  return result;
}

}  // namespace forge::core
