// Time and percentiles: what every measurement of forge-bench is made of.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "shm/clock.h"

namespace forge::bench {

using shm::now_ns;

/// What one look at the clock adds to the interval between two looks; measured once. Every sample
/// has it taken off, the floor's as well as the engine's, so that it does not soften their ratio.
std::int64_t clock_cost_ns();

/// The middle value; the mean of the two in the middle when there is no middle. 0 of nothing.
double median(std::vector<double> values);

/// How far apart two figures are, as a share of the smaller; 0 when one of them is missing.
double drift(double a, double b);

/// ‖values − expected‖ / ‖expected‖; not a number if one of the values is none. Throws
/// std::invalid_argument if there is not one expected value for each.
double relative_error(std::span<const double> values, std::span<const double> expected);

/// Log-linear histogram (the idea of HdrHistogram): 128 buckets per power of two, so a percentile
/// is off by less than 1 %. Recording is a few instructions and never allocates.
class Histogram {
 public:
  void record(std::int64_t ns) {
    const std::uint64_t value = ns > 0 ? static_cast<std::uint64_t>(ns) : 0;
    ++buckets_[index_of(value)];
    ++count_;
    sum_ += static_cast<double>(value);
    if (value > max_) max_ = value;
  }
  void merge(const Histogram& other);

  std::uint64_t count() const { return count_; }
  double max() const { return static_cast<double>(max_); }
  /// 0 of nothing.
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  /// The value that a share of `quantile` (0 to 1) of the samples does not exceed; 0 if there are
  /// none.
  double percentile(double quantile) const;

 private:
  static constexpr unsigned kSubBits = 7;
  static constexpr std::uint64_t kSub = std::uint64_t{1} << kSubBits;

  // Below 2 * kSub one bucket per value; above, the top kSubBits + 1 bits choose.
  static std::size_t index_of(std::uint64_t value) {
    const unsigned shift =
        value < 2 * kSub ? 0 : static_cast<unsigned>(std::bit_width(value)) - kSubBits - 1;
    return shift * kSub + (value >> shift);
  }
  static double middle_of(std::size_t index);

  std::array<std::uint64_t, (64 - kSubBits + 1) * kSub> buckets_{};
  std::uint64_t count_ = 0;
  double sum_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace forge::bench
