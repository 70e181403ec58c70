// The arithmetic of metrics: histograms, windows over time, JSON.
#include <forge/metrics.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "core/meter.h"

namespace forge {
namespace {

using namespace std::chrono_literals;
using core::Timeline;
using Level = Timeline::Level;
using ::testing::DoubleEq;
using ::testing::DoubleNear;

TEST(Histogram, IsEmptyAtFirst) {
  const Histogram none;
  EXPECT_EQ(none.count(), 0u);
  EXPECT_EQ(none.mean(), 0);
  EXPECT_EQ(none.max(), 0);
  EXPECT_EQ(none.quantile(0.99), 0);
}

TEST(Histogram, KeepsCountAndMeanExactly) {
  Histogram histogram;
  for (const auto duration : {1ns, 7ns, 8ns, 1000ns, 1'000'000ns}) histogram.record(duration);
  EXPECT_EQ(histogram.count(), 5u);
  EXPECT_THAT(histogram.mean(), DoubleNear(200203.2e-9, 1e-15));
  EXPECT_THAT(histogram.max(), DoubleEq(1e-3));
}

TEST(Histogram, QuantilesAreA64thOffAtMost) {
  std::mt19937_64 random(7);
  std::vector<std::int64_t> values;
  Histogram histogram;
  for (int i = 0; i < 20'000; ++i) {
    values.push_back(
        static_cast<std::int64_t>(std::exp(static_cast<double>(random() % 2500) / 100)));
    histogram.record(std::chrono::nanoseconds(values.back()));
  }
  std::ranges::sort(values);
  for (const double q : {0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(q * 20'000)) - 1;
    const double exact = static_cast<double>(values[rank]) * 1e-9;
    EXPECT_NEAR(histogram.quantile(q), exact, exact / 64 + 1e-12) << q;
  }
}

TEST(Histogram, TakesWhatNoClockWouldGive) {
  Histogram histogram;
  histogram.record(-5ns);
  histogram.record(std::chrono::nanoseconds::max());
  EXPECT_EQ(histogram.count(), 2u);
  EXPECT_EQ(histogram.quantile(0.1), 0);
  EXPECT_THAT(histogram.max(), DoubleEq(3600));
}

TEST(Histogram, CountsBelowPowersOfTwoExactly) {
  std::mt19937_64 random(8);
  Histogram histogram;
  std::vector<std::int64_t> values;
  for (int i = 0; i < 5'000; ++i) {
    values.push_back(static_cast<std::int64_t>(random() >> (20 + random() % 44)));
    histogram.record(std::chrono::nanoseconds(values.back()));
  }
  std::vector<std::chrono::nanoseconds> limits{-1ns, 0ns};
  for (int bit = 0; bit < 42; ++bit) limits.emplace_back(std::int64_t{1} << bit);
  const auto counts = histogram.counts_below(limits);
  ASSERT_EQ(counts.size(), limits.size());
  for (std::size_t i = 0; i < limits.size(); ++i) {
    const auto below =
        std::ranges::count_if(values, [&](auto ns) { return ns < limits[i].count(); });
    EXPECT_EQ(counts[i], static_cast<std::uint64_t>(below)) << limits[i].count();
  }
  const auto all = {std::chrono::nanoseconds::max()};
  EXPECT_EQ(histogram.counts_below(all).at(0), histogram.count());
}

TEST(Histogram, Adds) {
  Histogram one;
  Histogram other;
  one.record(10us);
  other.record(30us);
  one.add(other);
  EXPECT_EQ(one.count(), 2u);
  EXPECT_THAT(one.mean(), DoubleNear(20e-6, 1e-12));
  EXPECT_THAT(one.max(), DoubleEq(30e-6));
}

/// A service of one replica whose clock we turn.
class Windows : public ::testing::Test {
 protected:
  /// Time goes on; `requests` end meanwhile, and things stand like this at its end.
  void after(std::chrono::nanoseconds time, std::uint64_t requests, double queue = 0,
             double utilization = 0) {
    now += time;
    total += requests;
    timeline.roll(now, {{total, queue, utilization, true, 0}});
  }
  ServiceMetrics metrics() const {
    ServiceMetrics result;
    result.intervals = timeline.intervals(now);
    result.age = now - born;
    return result;
  }

  const Timeline::Time born{1000s};
  Timeline::Time now = born;
  std::uint64_t total = 0;
  Timeline timeline = [this] {
    Timeline made(1);
    made.resume(born);
    return made;
  }();
};

TEST_F(Windows, ARateIsWhatHasEnded) {
  for (int i = 0; i < 600; ++i) after(100ms, 10'000);
  EXPECT_THAT(metrics().get_total_request_rate(), DoubleNear(100'000, 1e-6));
  EXPECT_THAT(metrics().get_total_request_rate(1s), DoubleNear(100'000, 1e-6));
  EXPECT_THAT(metrics().get_total_request_rate(50ms), DoubleNear(100'000, 1e-6));
  EXPECT_THAT(timeline.rate(0, now, born), DoubleNear(100'000, 1e-6));
}

TEST_F(Windows, SlideOverWhatIsOlder) {
  after(10s, 1000);
  for (int i = 0; i < 20; ++i) after(100ms, 0);
  after(1s, 30);
  EXPECT_THAT(metrics().get_total_request_rate(1s), DoubleNear(30, 1e-9));
  EXPECT_THAT(metrics().get_total_request_rate(2s), DoubleNear(15, 1e-9));
  EXPECT_THAT(metrics().get_total_request_rate(8s), DoubleNear((30 + 500) / 8.0, 1e-9));
}

TEST_F(Windows, BeginWithTheServiceIfItIsYounger) {
  after(2s, 500);
  EXPECT_THAT(metrics().get_total_request_rate(), DoubleNear(250, 1e-9));
  EXPECT_THAT(metrics().get_total_request_rate(1h), DoubleNear(250, 1e-9));
}

TEST_F(Windows, CountPausesAsNothing) {
  after(1s, 100);
  now += 9s;  // nobody called, nobody looked
  timeline.resume(now);
  EXPECT_THAT(metrics().get_total_request_rate(1s), DoubleNear(0, 1e-9));
  EXPECT_THAT(metrics().get_total_request_rate(10s), DoubleNear(10, 1e-9));
}

TEST_F(Windows, ForgetWhatIsOlderThanAMinute) {
  for (int i = 0; i < 5000; ++i) after(100ms, 1);
  EXPECT_LE(timeline.intervals(now).size(), 602u);
  EXPECT_THAT(metrics().get_total_request_rate(10min), DoubleNear(10, 1e-9));
}

TEST_F(Windows, LookingOftenCostsNoMemoryAndChangesNothing) {
  for (int i = 0; i < 100'000; ++i) after(1us, 1);
  EXPECT_LE(timeline.intervals(now).size(), 2u);
  EXPECT_THAT(metrics().get_total_request_rate(), DoubleNear(1e6, 1e-3));
}

TEST_F(Windows, DepthAndUtilizationAreAveragesOverTime) {
  after(1s, 0, 10, 1);  // grew from nothing: 5 and ½ on average
  after(3s, 0, 10, 1);  // stayed
  EXPECT_THAT(metrics().get_avg_queue_depth(), DoubleNear((5.0 + 30) / 4, 1e-9));
  EXPECT_THAT(metrics().get_avg_capacity_utilization(), DoubleNear((0.5 + 3) / 4, 1e-9));
  EXPECT_THAT(metrics().get_avg_queue_depth(2s), DoubleNear(10, 1e-9));
}

TEST_F(Windows, MustBePositive) {
  after(1s, 1);
  EXPECT_THROW(metrics().get_total_request_rate(0s), InvalidArgument);
  EXPECT_THROW(metrics().get_avg_queue_depth(-1s), InvalidArgument);
}

TEST(Timelines, AverageOverTheHealthyReplicas) {
  const Timeline::Time start{1s};
  Timeline timeline(3);
  timeline.resume(start);
  const std::vector<Level> levels{
      {5, 8, 1, true, 9}, {7, 4, 0.5, true, 5}, {1, 100, 1, false, 101}};
  EXPECT_EQ(timeline.roll(start + 1s, levels), 13u);
  EXPECT_EQ(timeline.roll(start + 2s, levels), 0u);
  ServiceMetrics metrics;
  metrics.intervals = timeline.intervals(start + 2s);
  metrics.age = 2s;
  EXPECT_THAT(metrics.get_avg_queue_depth(1s), DoubleNear(6, 1e-9));
  EXPECT_THAT(metrics.get_avg_capacity_utilization(1s), DoubleNear(0.75, 1e-9));
  EXPECT_THAT(timeline.rate(1, start + 2s, start), DoubleNear(3.5, 1e-9));
}

TEST(Timelines, CountOngoingRequestsWhoeverHasThem) {
  const Timeline::Time start{1s};
  Timeline timeline(2);
  timeline.resume(start);
  ServiceMetrics metrics;
  timeline.roll(start + 1s, {{0, 0, 0, true, 4}, {0, 0, 0, false, 2}}, 10);  // grew from nothing
  timeline.roll(start + 2s, {{0, 0, 0, false, 4}, {0, 0, 0, false, 2}}, 10);
  metrics.intervals = timeline.intervals(start + 2s);
  metrics.age = 2s;
  EXPECT_THAT(metrics.get_avg_ongoing(), DoubleNear((8.0 + 16) / 2, 1e-9));
  EXPECT_THAT(metrics.get_avg_ongoing(1s), DoubleNear(16, 1e-9));
}

TEST(MetricsSummary, SpellsItsNamesInJson) {
  MetricsSummary summary;
  summary.service.total_request_rate = 1.5;
  summary.replicas[3].total_requests = 7;
  summary.replicas[3].time.total.record(1ms);
  summary.replicas[3].devices = {{"GPU-1", 2, 3, 4}};
  summary.endpoints["say \"hi\"\xFF"].batch_sizes = {0, 2, 0, 5};
  summary.endpoints["say \"hi\"\xFF"].failures = {{"cancelled", 3}};
  const auto json = nlohmann::json::parse(summary.to_json());
  EXPECT_EQ(json["service"]["total_request_rate"], 1.5);
  EXPECT_TRUE(json["service"]["last_scale_event"].is_null());
  for (const char* name :
       {"total_sessions", "healthy_replicas", "total_replicas", "avg_queue_depth",
        "avg_capacity_utilization", "sessions_per_replica", "scale_events"})
    EXPECT_TRUE(json["service"].contains(name)) << name;
  const auto& replica = json["replicas"]["3"];
  EXPECT_EQ(replica["total_requests"], 7);
  EXPECT_EQ(replica["total"]["count"], 1);
  EXPECT_EQ(replica["devices"], nlohmann::json::parse(R"([{"uuid": "GPU-1", "memory_used": 2,
      "memory_pooled": 3, "memory_total": 4}])"));
  for (const char* name :
       {"successful_requests", "failed_requests", "request_rate", "avg_latency", "active_requests",
        "queue_depth", "assigned_sessions", "capacity_utilization", "rejected", "restarts"})
    EXPECT_TRUE(replica.contains(name)) << name;
  EXPECT_EQ(json["endpoints"].begin().value()["failures"], nlohmann::json({{"cancelled", 3}}));
  EXPECT_EQ(json["endpoints"].begin().value()["batch_sizes"], nlohmann::json({{"1", 2}, {"3", 5}}));
}

}  // namespace
}  // namespace forge
