// The table of forge-bench gpu: verdicts, and how far two sets of numbers are apart.
#include "bench/forge_bench/gpu_table.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

namespace forge::bench {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Values = std::vector<double>;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

TEST(GpuTable, ALimitItselfIsMet) {
  struct Case {
    double value;
    bool at_most_2;
    bool at_least_2;
  };
  for (const Case& one : {Case{1.9, true, false},
                          {2, true, true},
                          {2.1, false, true},
                          {kNone, false, false},
                          {-INFINITY, true, false}}) {
    const auto verdict = [](bool met) { return met ? Verdict::met : Verdict::missed; };
    EXPECT_EQ(at_most({"", ""}, one.value, 2).verdict, verdict(one.at_most_2)) << one.value;
    EXPECT_EQ(at_least({"", ""}, one.value, 2).verdict, verdict(one.at_least_2)) << one.value;
  }
}

TEST(GpuTable, WhatWasNotMeasuredIsNotMet) {
  const GpuCheck met = holds({"a", "exact"}, true, "exact");
  EXPECT_TRUE(all_met({met}));
  EXPECT_FALSE(all_met({met, left_out({"b", "≥ 1"}, "no second card")}));
  EXPECT_FALSE(all_met({met, holds({"c", "exact"}, false, "different")}));
}

TEST(GpuTable, NumbersDifferInProportion) {
  EXPECT_DOUBLE_EQ(relative_error(Values{3, 4}, Values{3, 4}), 0);
  EXPECT_DOUBLE_EQ(relative_error(Values{3, 4.5}, Values{3, 4}), 0.1);
  EXPECT_DOUBLE_EQ(relative_error(Values{0}, Values{0}), 0);
  EXPECT_TRUE(std::isnan(relative_error(Values{1}, Values{0})));
  EXPECT_THROW(relative_error(Values{1}, Values{1, 2}), std::invalid_argument);
}

TEST(GpuTable, WhatIsNoNumberIsNeverRight) {
  EXPECT_TRUE(std::isnan(relative_error(Values{1, kNone}, Values{1, 2})));
  EXPECT_FALSE(relative_error(Values{1, INFINITY}, Values{1, 2}) <= 1e9);
}

TEST(GpuTable, SaysItToPeopleAndAsJson) {
  GpuCheck check{.name = "copy", .target = "≥ 0.98 ×", .measured = "0.50 ×", .note = "of 55 GB/s"};
  const std::vector<GpuCheck> checks = {at_least(check, 0.5, 0.98),
                                        at_most({"error", "≤ 1"}, kNone, 1)};
  EXPECT_THAT(to_text(checks), HasSubstr("0.50 ×"));
  EXPECT_THAT(to_text(checks), HasSubstr("MISSED"));
  EXPECT_THAT(to_text(checks), Not(HasSubstr("nan")));
  const auto json = to_json(checks);
  EXPECT_EQ(json.at(0).at("value"), 0.5);
  EXPECT_EQ(json.at(0).at("limit"), 0.98);
  EXPECT_TRUE(json.at(1).at("value").is_null());
  EXPECT_EQ(json.at(1).at("verdict"), "MISSED");
}

}  // namespace
}  // namespace forge::bench
