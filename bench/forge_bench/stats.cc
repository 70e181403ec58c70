#include "bench/forge_bench/stats.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace forge::bench {

std::int64_t clock_cost_ns() {
  static const std::int64_t cost = [] {
    Histogram intervals;
    for (int i = 0; i < 20'000; ++i) {
      const std::int64_t begin = now_ns();
      intervals.record(now_ns() - begin);
    }
    return static_cast<std::int64_t>(intervals.percentile(0.5));
  }();
  return cost;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double drift(double a, double b) {
  if (a <= 0 || b <= 0) return 0;
  return std::max(a, b) / std::min(a, b) - 1;
}

double relative_error(std::span<const double> values, std::span<const double> expected) {
  if (values.size() != expected.size()) {
    throw std::invalid_argument(std::to_string(values.size()) + " values, but " +
                                std::to_string(expected.size()) + " are expected");
  }
  double off = 0;
  double size = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    off += (values[i] - expected[i]) * (values[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  if (size == 0) return off == 0 ? 0 : std::nan("");
  return std::sqrt(off / size);
}

void Histogram::merge(const Histogram& other) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

double Histogram::percentile(double quantile) const {
  if (count_ == 0) return 0;
  const auto wanted =
      std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::ceil(quantile * count_)));
  if (wanted >= count_) return max();
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen >= wanted) return std::min(middle_of(i), max());
  }
  return max();
}

double Histogram::middle_of(std::size_t index) {
  if (index < 2 * kSub) return static_cast<double>(index);
  const std::size_t shift = index / kSub - 1;
  const double low = std::ldexp(static_cast<double>(index - shift * kSub), static_cast<int>(shift));
  return low + std::ldexp(0.5, static_cast<int>(shift));
}

}  // namespace forge::bench
