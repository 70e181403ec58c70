#include "replicas/supervisor.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <random>

namespace forge::replicas {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;
using Time = std::chrono::steady_clock::time_point;
using Action = Decision::Action;

constexpr Death kInSetup{DeathKind::in_setup};
constexpr Death kBeforeFirstAnswer{DeathKind::before_first_answer};
constexpr Death kIdle{DeathKind::idle};
constexpr Death kServing{DeathKind::serving_after_answer};
constexpr Death kByCall{DeathKind::by_call};
constexpr Death kRequested{DeathKind::requested};
constexpr Death kDeviceLost{DeathKind::device_lost};
constexpr Death from_outside(Death death) { return {death.kind, true}; }

/// One replica, its past, and a clock that the test moves.
class Supervisor : public ::testing::Test {
 protected:
  Decision die(Death death, double jitter = 0) {
    const Decision decision = on_exit(history_, policy_, death, now_, jitter);
    if (decision.action == Action::restart) {
      EXPECT_GE(decision.at, now_);
    }
    return decision;
  }
  /// The delay of a restart; -1 if quarantined.
  nanoseconds delay(Death death, double jitter = 0) {
    const Decision decision = die(death, jitter);
    return decision.action == Action::restart ? decision.at - now_ : nanoseconds(-1);
  }
  void pass(nanoseconds time) { now_ += time; }

  RestartPolicy policy_;
  RestartHistory history_;
  Time now_{1000s};
};

class AnyKind : public Supervisor, public ::testing::WithParamInterface<Death> {};
class BarrenKind : public Supervisor, public ::testing::WithParamInterface<Death> {};

TEST_P(AnyKind, RestartsAtOnceAfterTheFirstDeath) { EXPECT_EQ(delay(GetParam(), 0.5), 0ns); }

INSTANTIATE_TEST_SUITE_P(All, AnyKind,
                         ::testing::Values(kInSetup, kBeforeFirstAnswer, kIdle, kServing,
                                           from_outside(kInSetup), from_outside(kBeforeFirstAnswer),
                                           from_outside(kIdle), from_outside(kServing)));

TEST_P(BarrenKind, BacksOffAndIsQuarantinedAtTheSixthInAMinute) {
  EXPECT_EQ(delay(GetParam()), 0ms);
  EXPECT_EQ(delay(GetParam()), 50ms);
  EXPECT_EQ(delay(GetParam()), 100ms);
  EXPECT_EQ(delay(GetParam()), 200ms);
  EXPECT_EQ(delay(GetParam()), 400ms);
  EXPECT_EQ(die(GetParam()).action, Action::quarantine);
  EXPECT_EQ(die(GetParam()).action, Action::quarantine) << "and stays so";
}

TEST_P(BarrenKind, CountsDeathsOfTheWholeWindowAndNoOlderOnes) {
  struct Case {
    nanoseconds since_first;
    Action expected;
  };
  for (const Case& c : {Case{60s - 1ns, Action::quarantine}, Case{60s, Action::quarantine},
                        Case{60s + 1ns, Action::restart}}) {
    history_ = {};
    const Time first = now_;
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(die(GetParam()).action, Action::restart);
      pass(1s);
    }
    now_ = first + c.since_first;
    EXPECT_EQ(die(GetParam()).action, c.expected) << c.since_first.count() << " ns";
  }
}

TEST_P(BarrenKind, StartsANewStreakAfterProgress) {
  for (int i = 0; i < 5; ++i) die(GetParam());
  EXPECT_EQ(delay(kServing), 0ms);
  EXPECT_EQ(delay(GetParam()), 0ms);
  EXPECT_EQ(delay(GetParam()), 50ms);
  for (int i = 2; i < 5; ++i) EXPECT_EQ(die(GetParam()).action, Action::restart);
  EXPECT_EQ(die(GetParam()).action, Action::quarantine);
}

INSTANTIATE_TEST_SUITE_P(All, BarrenKind, ::testing::Values(kInSetup, kIdle));

TEST_F(Supervisor, CountsBarrenDeathsOfDifferentKindsTogether) {
  for (const Death death : {kInSetup, kIdle, kIdle, kInSetup, kIdle}) {
    EXPECT_EQ(die(death).action, Action::restart);
  }
  EXPECT_EQ(die(kInSetup).action, Action::quarantine);
}

TEST_F(Supervisor, NeverQuarantinesForWhatCallsDo) {
  for (const Death death : {kBeforeFirstAnswer, kByCall, kServing}) {
    history_ = {};
    for (int i = 0; i < 100; ++i) ASSERT_EQ(die(death).action, Action::restart);
  }
  for (const nanoseconds expected : {0ms, 50ms, 100ms, 200ms, 400ms, 800ms, 1000ms, 1000ms}) {
    if (expected == 0ms) history_ = {};
    EXPECT_EQ(delay(kBeforeFirstAnswer), expected);
  }
}

TEST_F(Supervisor, QuarantineEndsAndIsLongerEachTimeItDidNotHelp) {
  policy_.max_deaths = 0;
  for (const nanoseconds expected : {nanoseconds(5min), nanoseconds(10min), nanoseconds(20min),
                                     nanoseconds(40min), nanoseconds(1h), nanoseconds(1h)}) {
    const Decision decision = die(kInSetup);
    EXPECT_EQ(decision.action, Action::quarantine);
    EXPECT_EQ(decision.at - now_, expected);
    now_ = decision.at;
  }
  EXPECT_EQ(delay(kServing), 0ms);
  const Decision decision = die(kIdle);
  EXPECT_EQ(decision.at - now_, 5min) << "progress ends the series";
}

TEST_F(Supervisor, NeverDelaysDeathsWithProgress) {
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(delay(kServing, 0.9), 0ns);
}

TEST_F(Supervisor, DelayGrowsToThirtySecondsAndNoFurther) {
  const nanoseconds expected[] = {0ms,    50ms,   100ms,   200ms,   400ms, 800ms, 1600ms,
                                  3200ms, 6400ms, 12800ms, 25600ms, 30s,   30s};
  for (const nanoseconds delay_now : expected) {
    EXPECT_EQ(delay(kInSetup), delay_now);
    pass(61s);  // slow deaths, so that none is quarantined; in setup, so none lived
  }
  for (int i = 0; i < 10'000; ++i, pass(61s)) ASSERT_EQ(delay(kInSetup), 30s);
}

TEST_F(Supervisor, JitterShortensADelayByUpToAQuarter) {
  struct Case {
    double jitter;
    nanoseconds expected;
  };
  for (const Case& c : {Case{0.0, 100ms}, Case{0.5, 87'500us}, Case{0.8, 80ms}}) {
    history_ = {};
    die(kInSetup, c.jitter);
    die(kInSetup, c.jitter);
    EXPECT_EQ(delay(kInSetup, c.jitter), c.expected);
  }
}

TEST_F(Supervisor, ForgivesAWorkerThatWasUpLongerThanTheWindow) {
  struct Case {
    Death death;
    nanoseconds lived;
    nanoseconds expected;
  };
  for (const Case& c :
       {Case{kIdle, 60s, 100ms}, Case{kIdle, 60s + 1ns, 0ms},
        Case{kBeforeFirstAnswer, 60s + 1ns, 0ms}, Case{kInSetup, 60s + 1ns, 100ms}}) {
    history_ = {};
    die(kInSetup);
    const Decision second = die(kInSetup);
    now_ = second.at + c.lived;  // lived since the restart, not since the death
    EXPECT_EQ(delay(c.death), c.expected) << c.lived.count() << " ns";
  }
}

TEST_F(Supervisor, NeverQuarantinesForKillsFromOutside) {
  for (const Death death : {kInSetup, kBeforeFirstAnswer, kIdle, kServing}) {
    history_ = {};
    for (int i = 0; i < 100; ++i) ASSERT_EQ(die(from_outside(death)).action, Action::restart);
    EXPECT_TRUE(history_.counted_deaths.empty());
  }
}

TEST_F(Supervisor, RestartsAtOnceAfterEveryKillFromOutsideOfAWorkerThatWasUp) {
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(delay(from_outside(kIdle)), 0ns);
    EXPECT_EQ(delay(from_outside(kServing)), 0ns);
  }
}

TEST_F(Supervisor, DelaysKillsFromOutsideBeforeAnAnswerByASecondAtMost) {
  for (const nanoseconds expected : {0ms, 50ms, 100ms, 200ms, 400ms, 800ms, 1000ms, 1000ms}) {
    EXPECT_EQ(delay(from_outside(kInSetup)), expected);
  }
  EXPECT_EQ(delay(from_outside(kServing)), 0ms);
  EXPECT_EQ(delay(from_outside(kBeforeFirstAnswer)), 0ms) << "progress ended the streak";
}

TEST_F(Supervisor, KillFromOutsideNeitherAddsToNorClearsTheCount) {
  for (int i = 0; i < 5; ++i) die(kInSetup);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(die(from_outside(kIdle)).action, Action::restart);
  EXPECT_EQ(die(kInSetup).action, Action::quarantine);
}

/// After two barren deaths at once: what a third of each kind brings, and what it leaves behind.
TEST_F(Supervisor, DecidesByThisTable) {
  struct Case {
    const char* what;
    Death death;
    nanoseconds delay;
    std::size_t counted;  // barren deaths remembered
    std::uint32_t streak;
  };
  for (const Case& c :
       {Case{"in setup", kInSetup, 100ms, 3, 3},
        Case{"before the first answer", kBeforeFirstAnswer, 100ms, 2, 3},
        Case{"idle", kIdle, 100ms, 3, 3}, Case{"with progress", kServing, 0ms, 0, 0},
        Case{"by a call", kByCall, 0ms, 2, 2}, Case{"requested", kRequested, 0ms, 0, 0},
        Case{"with its device", kDeviceLost, 0ms, 2, 2},
        Case{"killed in setup", from_outside(kInSetup), 100ms, 2, 3},
        Case{"killed before the first answer", from_outside(kBeforeFirstAnswer), 100ms, 2, 3},
        Case{"killed while idle", from_outside(kIdle), 0ms, 2, 2},
        Case{"killed while it served", from_outside(kServing), 0ms, 0, 0}}) {
    history_ = {};
    die(kInSetup);
    die(kInSetup);
    EXPECT_EQ(delay(c.death), c.delay) << c.what;
    EXPECT_EQ(history_.counted_deaths.size(), c.counted) << c.what;
    EXPECT_EQ(history_.streak, c.streak) << c.what;
  }
}

TEST_F(Supervisor, FollowsThePolicyItIsGiven) {
  policy_ = {
      .first_delay = 3s, .max_delay = 5s, .max_delay_outside = 4s, .window = 10s, .max_deaths = 3};
  EXPECT_EQ(delay(kInSetup), 0s);
  EXPECT_EQ(delay(kInSetup), 3s);
  EXPECT_EQ(delay(from_outside(kInSetup)), 4s);
  EXPECT_EQ(delay(kInSetup), 5s);
  EXPECT_EQ(die(kInSetup).action, Action::quarantine);

  policy_.max_deaths = 0;
  history_ = {};
  EXPECT_EQ(die(kIdle).action, Action::quarantine) << "none is put up with";
}

TEST_F(Supervisor, KeepsBoundsForAnyHistory) {
  const char* given = std::getenv("FORGE_TEST_SEED");
  const auto seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "FORGE_TEST_SEED=" << seed << std::endl;
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> dice(0, 1);
  std::vector<Time> barren;  // reference: all of them since the last progress
  for (int i = 0; i < 20'000; ++i) {
    const Death death{static_cast<DeathKind>(random() % 4), random() % 4 == 0};
    pass(nanoseconds(random() % 20'000'000'000));
    const Decision decision = die(death, dice(random));
    if (death.kind == DeathKind::serving_after_answer) barren.clear();
    const bool counts =
        !death.from_outside && (death.kind == DeathKind::in_setup || death.kind == DeathKind::idle);
    if (counts) barren.push_back(now_);
    std::size_t recent = 0;
    for (const Time when : barren) recent += now_ - when <= 60s;
    ASSERT_EQ(decision.action == Action::quarantine, counts && recent > 5) << "death " << i;
    if (decision.action == Action::quarantine) {
      history_ = {};
      barren.clear();
    } else {
      ASSERT_LE(decision.at - now_, death.from_outside ? nanoseconds(1s) : nanoseconds(30s));
    }
  }
}

}  // namespace
}  // namespace forge::replicas
