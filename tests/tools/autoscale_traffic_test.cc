// Traffic, recorded and generated, and how it is drawn.
#include "bench/forge_bench/autoscale_traffic.h"

#include <gmock/gmock.h>

#include <chrono>
#include <sstream>

#include "bench/forge_bench/autoscale_plot.h"
#include "bench/forge_bench/duration.h"
#include "bench/forge_bench/options.h"

namespace forge::bench {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

Traffic read(const std::string& text) {
  std::istringstream in(text);
  return recorded(in, "x.csv", 0.1);
}
std::string complaint(const std::string& text) {
  try {
    read(text);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "none";
}

TEST(AutoscaleTraffic, ReadsATraceWhoseRatesHoldUntilTheNextLine) {
  const Traffic traffic = read("# of Monday\nseconds,rate,ms\n100,5\r\n\n160, 10 ,250\n280,0\n");
  ASSERT_EQ(traffic.pieces.size(), 3U);
  EXPECT_EQ(traffic.pieces[0].begin_s, 0);
  EXPECT_EQ(traffic.pieces[0].end_s, 60);
  EXPECT_EQ(traffic.pieces[0].service_s, 0.1);
  EXPECT_EQ(traffic.pieces[1].service_s, 0.25);
  EXPECT_EQ(traffic.duration_s(), 300);
  EXPECT_EQ(traffic.requests(), 60 * 5 + 120 * 10);
  EXPECT_EQ(traffic.highest_rate(), 10);
  EXPECT_EQ(traffic.moves(), 2);
}

TEST(AutoscaleTraffic, NamesTheLineThatIsWrong) {
  EXPECT_THAT(complaint("0,1\n5,x\n"), HasSubstr("x.csv:2: '5,x'"));
  EXPECT_THAT(complaint("0,1\n5\n"), HasSubstr("x.csv:2"));
  EXPECT_THAT(complaint("0,1\n5,1,1,1\n"), HasSubstr("x.csv:2"));
  EXPECT_THAT(complaint("0,1\n5,nan\n"), HasSubstr("x.csv:2"));
  EXPECT_THAT(complaint("0,1\n5,-1\n"), HasSubstr("negative"));
  EXPECT_THAT(complaint("0,1\n5,1,0\n"), HasSubstr("service time"));
  EXPECT_THAT(complaint("0,1\n5,1\n5,1\n"), HasSubstr("x.csv:3: time"));
  EXPECT_THAT(complaint(""), HasSubstr("no trace"));
  EXPECT_THAT(complaint("a,b\n0,1\n"), HasSubstr("no trace"));
}

TEST(AutoscaleTraffic, PatternsHaveTheirSteps) {
  const std::pair<const char*, int> rows[] = {
      {"step", 1}, {"ramp", 1}, {"diurnal", 2}, {"burst", 12}, {"sawtooth", 11}};
  for (const auto& [pattern, moves] : rows) {
    AutoscaleOptions options;
    options.pattern = pattern;
    options.service.max_replicas = 20;
    check(options);
    const Traffic traffic = traffic_of(options);
    EXPECT_EQ(traffic.moves(), moves) << pattern;
    EXPECT_NEAR(traffic.highest_rate(), 40, 1) << pattern;
    EXPECT_NEAR(traffic.duration_s(), options.duration_s, 1e-6) << pattern;
  }
}

TEST(AutoscaleTraffic, ArrivalsFollowTheRateAndTheSeed) {
  Traffic traffic;
  traffic.pieces = {{0, 10, 2, 0.1}, {10, 20, 0, 0.1}, {20, 1020, 10, 0.3}};
  const auto times = [&](bool poisson, std::uint64_t seed) {
    std::vector<double> all;
    Arrivals arrivals(traffic, poisson, seed);
    while (const auto arrival = arrivals.next()) {
      EXPECT_FALSE(arrival->at > 10 && arrival->at < 20);
      EXPECT_EQ(arrival->service_s, arrival->at < 10 ? 0.1 : 0.3);
      all.push_back(arrival->at);
    }
    EXPECT_TRUE(std::ranges::is_sorted(all));
    return all;
  };
  const auto even = times(false, 1);
  EXPECT_NEAR(static_cast<double>(even.size()), 10020, 1.5);
  EXPECT_DOUBLE_EQ(even[0], 0.5);
  EXPECT_EQ(times(true, 7), times(true, 7));
  EXPECT_NE(times(true, 7), times(true, 8));
  EXPECT_NEAR(static_cast<double>(times(true, 7).size()), 10020, 5 * 100);
}

TEST(AutoscaleTraffic, PlotsAreAsHighAsTheirValues) {
  const auto format = [](double value) { return std::to_string(static_cast<int>(value)); };
  const std::string label(kPlotLabel - 3, ' ');
  EXPECT_EQ(plot("x", {0, 8, 16, 0.01}, 2, format),
            "x" + std::string(kPlotLabel - 5, ' ') + "16    █\n" + label + "0   ██▁\n");
  EXPECT_EQ(plot("x", {0, 0}, 1, format), "x" + label.substr(1) + "0\n");
}

TEST(Duration, IsReadWithItsUnit) {
  const auto parse = [](const char* text) {
    return parse_duration("--x", text, std::chrono::days(31));
  };
  EXPECT_EQ(parse("12 ns"), 12ns);
  EXPECT_EQ(parse("1.5us"), 1500ns);
  EXPECT_EQ(parse("1.5µs"), 1500ns);
  EXPECT_EQ(parse("250ms"), 250ms);
  EXPECT_EQ(parse("1.5 min"), 90s);
  EXPECT_EQ(parse("24h"), 24h);
  EXPECT_EQ(parse("31d"), 24h * 31);
  EXPECT_EQ(parse("0s"), 0s);
  for (const char* const wrong : {"", "5", "s", "-1s", "nans", "infs", "32d", "5 parsec"})
    EXPECT_THROW(parse(wrong), UsageError) << wrong;
  EXPECT_THROW(parse_duration("--x", "61min", 1h), UsageError);
}

}  // namespace
}  // namespace forge::bench
