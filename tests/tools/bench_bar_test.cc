// Bars: verdicts, and the table of them.
#include "bench/forge_bench/bar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

namespace forge::bench {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

TEST(Bars, ALimitItselfIsMet) {
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

TEST(Bars, WhatWasNotMeasuredIsNotMet) {
  const Bar met = holds({"a", "exact"}, true, "exact");
  EXPECT_TRUE(all_met({met}));
  EXPECT_FALSE(all_met({met, {"b", "≥ 1"}}));
  EXPECT_FALSE(all_met({met, holds({"c", "exact"}, false, "different")}));
  EXPECT_FALSE(all_met({}));
}

TEST(Bars, SaysItToPeopleAndAsJson) {
  Bar check{.name = "copy", .target = "≥ 0.98 ×", .measured = "0.50 ×", .note = "of 55 GB/s"};
  const std::vector<Bar> checks = {at_least(check, 0.5, 0.98), at_most({"error", "≤ 1"}, kNone, 1)};
  EXPECT_EQ(to_text(checks, "check"),
            "check  target    measured  verdict  note\n"
            "copy   ≥ 0.98 ×  0.50 ×    MISSED   of 55 GB/s\n"
            "error  ≤ 1                 MISSED   \n");
  const auto json = to_json(checks, "check");
  EXPECT_EQ(json.at(0).at("check"), "copy");
  EXPECT_EQ(json.at(0).at("value"), 0.5);
  EXPECT_EQ(json.at(0).at("limit"), 0.98);
  EXPECT_TRUE(json.at(1).at("value").is_null());
  EXPECT_EQ(json.at(1).at("verdict"), "MISSED");
}

}  // namespace
}  // namespace forge::bench
