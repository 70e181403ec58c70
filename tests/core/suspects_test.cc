#include "core/suspects.h"

#include <gtest/gtest.h>

namespace forge::core {
namespace {

using namespace std::chrono_literals;

constexpr Suspects::Time kNow{1'000s};

TEST(Suspects, RefusesACallThatHasEndedTwoWorkers) {
  Suspects suspects(60s);
  EXPECT_EQ(suspects.refused(1, kNow), nullptr);
  EXPECT_EQ(suspects.note(1, kNow).deaths, 1);
  EXPECT_EQ(suspects.refused(1, kNow), nullptr);
  suspects.note(1, kNow).deeds = "crashes";
  EXPECT_EQ(suspects.refused(2, kNow), nullptr) << "another call";
  ASSERT_NE(suspects.refused(1, kNow), nullptr);
  EXPECT_EQ(suspects.refused(1, kNow)->deeds, "crashes");
}

TEST(Suspects, LetsItTryAgainAfterAWhileAndRefusesItAtOnceIfItHasNotChanged) {
  Suspects suspects(60s);
  suspects.note(1, kNow);
  suspects.note(1, kNow);
  EXPECT_NE(suspects.refused(1, kNow + 59s), nullptr);
  EXPECT_EQ(suspects.refused(1, kNow + 60s), nullptr);
  suspects.note(1, kNow + 61s);
  EXPECT_NE(suspects.refused(1, kNow + 61s), nullptr);
  EXPECT_EQ(suspects.refused(1, kNow + 1h), nullptr);
  EXPECT_TRUE(suspects.empty()) << "long ago";
}

TEST(Suspects, ForgetsTheOldestWhenThereAreTooMany) {
  Suspects suspects(60s);
  suspects.note(0, kNow);
  suspects.note(0, kNow);
  for (std::uint64_t i = 1; i < Suspects::kMost; ++i) suspects.note(i, kNow + 1s);
  EXPECT_NE(suspects.refused(0, kNow + 1s), nullptr);
  suspects.note(Suspects::kMost, kNow + 1s);
  EXPECT_EQ(suspects.refused(0, kNow + 1s), nullptr);
}

}  // namespace
}  // namespace forge::core
