// The measuring instruments of forge-bench: percentiles that are right to a percent, and numbers
// that people can read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "bench/forge_bench/stats.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

std::uint64_t seed() {
  const char* given = std::getenv("FORGE_TEST_SEED");  // NOLINT(concurrency-mt-unsafe)
  const std::uint64_t value = given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
  std::printf("FORGE_TEST_SEED=%llu\n", static_cast<unsigned long long>(value));
  return value;
}

TEST(BenchHistogram, PercentilesAreThoseOfTheSortedSamplesToOnePercent) {
  std::mt19937_64 random(seed());
  for (const double scale : {1.0, 50.0, 1e3, 1e6, 1e9}) {
    const auto histogram = std::make_unique<Histogram>();
    std::vector<double> samples;
    std::lognormal_distribution<double> values(std::log(scale), 1);
    for (int i = 0; i < 20'001; ++i) {
      const auto value = static_cast<std::int64_t>(values(random));
      histogram->record(value);
      samples.push_back(static_cast<double>(value));
    }
    std::sort(samples.begin(), samples.end());
    for (const double quantile : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999}) {
      const auto rank = static_cast<std::size_t>(std::ceil(quantile * 20'001)) - 1;
      EXPECT_NEAR(histogram->percentile(quantile), samples[rank], 0.01 * samples[rank])
          << "scale " << scale << " quantile " << quantile;
    }
    EXPECT_EQ(histogram->percentile(1), samples.back());
    EXPECT_EQ(histogram->max(), samples.back());
  }
}

TEST(BenchHistogram, TakesTheLargestTheSmallestAndNegativeValues) {
  const auto histogram = std::make_unique<Histogram>();
  histogram->record(std::numeric_limits<std::int64_t>::max());
  histogram->record(0);
  histogram->record(-5);  // less than the clock's own cost: counts as nothing
  EXPECT_EQ(histogram->count(), 3u);
  EXPECT_EQ(histogram->percentile(0.5), 0);
  EXPECT_EQ(histogram->max(), static_cast<double>(std::numeric_limits<std::int64_t>::max()));
  EXPECT_LE(histogram->percentile(0.999), histogram->max());
}

TEST(BenchHistogram, OfNothingIsNothing) {
  const auto histogram = std::make_unique<Histogram>();
  EXPECT_EQ(histogram->percentile(0.5), 0);
  EXPECT_EQ(histogram->max(), 0);
  EXPECT_EQ(histogram->mean(), 0);
}

TEST(BenchHistogram, TheMeanIsThatOfTheSamples) {
  const auto histogram = std::make_unique<Histogram>();
  for (const std::int64_t value : {1, 1000, 1'000'000}) histogram->record(value);
  EXPECT_DOUBLE_EQ(histogram->mean(), 1'001'001.0 / 3);
}

TEST(BenchHistogram, MergingIsRecordingTogether) {
  std::mt19937_64 random(seed());
  const auto one = std::make_unique<Histogram>();
  const auto other = std::make_unique<Histogram>();
  const auto both = std::make_unique<Histogram>();
  for (int i = 0; i < 1000; ++i) {
    const auto value = static_cast<std::int64_t>(random() % 1'000'000);
    (i % 3 == 0 ? one : other)->record(value);
    both->record(value);
  }
  one->merge(*other);
  EXPECT_EQ(one->count(), both->count());
  EXPECT_EQ(one->max(), both->max());
  EXPECT_DOUBLE_EQ(one->mean(), both->mean());
  for (const double quantile : {0.01, 0.5, 0.99}) {
    EXPECT_EQ(one->percentile(quantile), both->percentile(quantile));
  }
}

TEST(BenchStats, MedianIsTheMiddle) {
  EXPECT_EQ(median(std::vector<double>{}), 0);
  EXPECT_EQ(median({3.0}), 3);
  EXPECT_EQ(median({9.0, 1.0, 5.0}), 5);
  EXPECT_EQ(median({4.0, 1.0, 2.0, 9.0}), 3);
}

TEST(BenchStats, DriftIsAShareOfTheSmaller) {
  EXPECT_DOUBLE_EQ(drift(100, 120), 0.2);
  EXPECT_DOUBLE_EQ(drift(120, 100), 0.2);
  EXPECT_EQ(drift(0, 100), 0);
}

using Values = std::vector<double>;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

TEST(BenchRelativeError, NumbersDifferInProportion) {
  EXPECT_DOUBLE_EQ(relative_error(Values{3, 4}, Values{3, 4}), 0);
  EXPECT_DOUBLE_EQ(relative_error(Values{3, 4.5}, Values{3, 4}), 0.1);
  EXPECT_DOUBLE_EQ(relative_error(Values{0}, Values{0}), 0);
  EXPECT_TRUE(std::isnan(relative_error(Values{1}, Values{0})));
  EXPECT_THROW(relative_error(Values{1}, Values{1, 2}), std::invalid_argument);
}

TEST(BenchRelativeError, WhatIsNoNumberIsNeverRight) {
  EXPECT_TRUE(std::isnan(relative_error(Values{1, kNone}, Values{1, 2})));
  EXPECT_FALSE(relative_error(Values{1, INFINITY}, Values{1, 2}) <= 1e9);
}

TEST(BenchText, NumbersHaveThreeDigitsAndAUnit) {
  EXPECT_EQ(format_ns(451), "451 ns");
  EXPECT_EQ(format_ns(999.6), "1.00 µs");
  EXPECT_EQ(format_ns(63'100), "63.1 µs");
  EXPECT_EQ(format_ns(1'300'000), "1.30 ms");
  EXPECT_EQ(format_ns(2e9), "2.00 s");
  EXPECT_EQ(format_rate(1'960'000), "1.96 M/s");
  EXPECT_EQ(format_rate(56'000), "56.0 k/s");
  EXPECT_EQ(format_rate(42), "42 /s");
  EXPECT_EQ(format_bytes(64), "64 B");
  EXPECT_EQ(format_bytes(1 << 20), "1 MiB");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(4'012'345), "4,012,345");
}

TEST(BenchText, ColumnsCountCharactersNotBytes) {
  EXPECT_EQ(right("1 µs", 6), "  1 µs");
  EXPECT_EQ(left("1 µs", 6), "1 µs  ");
  EXPECT_EQ(left("longer", 3), "longer");
}

}  // namespace
}  // namespace forge::bench
