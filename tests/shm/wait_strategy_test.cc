// How long each strategy goes on looking. Lower bounds of time only: how late somebody parks
// depends on who else wants the core.
#include "shm/wait_strategy.h"

#include <gtest/gtest.h>

#include <chrono>

namespace forge::shm {
namespace {

using Clock = std::chrono::steady_clock;

/// Looks until it says to park.
int looks_until_parked(Spinner& spinner) {
  int looks = 0;
  while (spinner.keep_spinning()) ++looks;
  return looks;
}

TEST(Spinner, ThatBlocksParksAtOnce) {
  Spinner spinner(Wait::block);
  EXPECT_FALSE(spinner.keep_spinning());
  spinner.reset();
  EXPECT_FALSE(spinner.keep_spinning());
}

TEST(Spinner, ThatSpinsNeverParks) {
  Spinner spinner(Wait::spin);
  const auto end = Clock::now() + 10 * Spinner::kBudget;
  for (int i = 0; i < 10'000 || Clock::now() < end; ++i) ASSERT_TRUE(spinner.keep_spinning());
}

TEST(Spinner, ThatAdaptsParksAfterItsBudgetAndNotBefore) {
  Spinner spinner(Wait::adaptive);
  const auto start = Clock::now();
  EXPECT_GT(looks_until_parked(spinner), 0);
  EXPECT_GE(Clock::now() - start, Spinner::kBudget);
  EXPECT_FALSE(spinner.keep_spinning()) << "and stays parked until something was found";
}

TEST(Spinner, GetsAFreshBudgetWhenSomethingWasFound) {
  Spinner spinner(Wait::adaptive);
  looks_until_parked(spinner);
  for (int i = 0; i < 3; ++i) {
    spinner.reset();
    const auto start = Clock::now();
    EXPECT_GT(looks_until_parked(spinner), 0);
    EXPECT_GE(Clock::now() - start, Spinner::kBudget);
  }
}

TEST(Spinner, SpendsNoBudgetBeforeItsFirstLooks) {
  Spinner spinner(Wait::adaptive);
  const auto late = Clock::now() + 2 * Spinner::kBudget;
  while (Clock::now() < late) {
  }
  EXPECT_TRUE(spinner.keep_spinning())
      << "the budget starts with the first look, not when it is made";
  const auto start = Clock::now();
  looks_until_parked(spinner);
  EXPECT_GE(Clock::now() - start, Spinner::kBudget / 2);
}

}  // namespace
}  // namespace forge::shm
