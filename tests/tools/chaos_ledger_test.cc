// The account of forge-bench chaos must be able to fail: each broken promise is told from what may
// happen under faults.
#include "bench/forge_bench/chaos_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <vector>

namespace forge::bench {
namespace {

using Kind = ChaosKind;
using Outcome = ChaosOutcome;
using ::testing::HasSubstr;

constexpr ChaosRules kKillsOnly{.idempotent_succeed = true, .batch_size = 8, .window = 256};
constexpr ChaosRules kAllFaults{.idempotent_succeed = false, .batch_size = 8, .window = 256};
constexpr ChaosRules kFull{.batch_size = 8, .may_fill_up = true};

struct Case {
  ChaosRequest request;
  ChaosRules rules;
  std::string said;  ///< empty: it may happen
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << to_string(c.request.kind) << ", " << to_string(c.request.outcome) << ", started "
             << c.request.started << ", finished " << c.request.finished;
}

class Settling : public ::testing::TestWithParam<Case> {};

TEST_P(Settling, TellsWhatMayHappenFromWhatMustNot) {
  ChaosLedger ledger(GetParam().rules);
  ledger.settle(GetParam().request);
  EXPECT_EQ(ledger.requests(), 1u);
  EXPECT_EQ(ledger.count(GetParam().request.kind, GetParam().request.outcome), 1u);
  if (GetParam().said.empty()) {
    EXPECT_TRUE(ledger.holds()) << ledger.violations().front().what;
    return;
  }
  EXPECT_FALSE(ledger.holds());
  ASSERT_EQ(ledger.violations().size(), 1u);
  EXPECT_THAT(ledger.violations()[0].what, HasSubstr(GetParam().said));
  EXPECT_EQ(ledger.violations()[0].number, 7u);
}

Case may(Kind kind, Outcome outcome, unsigned started, unsigned finished,
         const ChaosRules& rules = kKillsOnly) {
  return {{7, kind, outcome, true, started, finished}, rules, ""};
}
Case must_not(Kind kind, Outcome outcome, unsigned started, unsigned finished,
              const std::string& said, const ChaosRules& rules = kAllFaults) {
  return {{7, kind, outcome, true, started, finished}, rules, said};
}

INSTANTIATE_TEST_SUITE_P(
    MayHappen, Settling,
    ::testing::Values(may(Kind::plain, Outcome::ok, 1, 1),
                      may(Kind::plain, Outcome::worker_lost, 1, 0),
                      may(Kind::plain, Outcome::worker_lost, 1, 1),
                      may(Kind::plain, Outcome::worker_lost, 0, 0),
                      may(Kind::idempotent, Outcome::ok, 3, 1),
                      may(Kind::idempotent, Outcome::worker_lost, 3, 0, kAllFaults),
                      may(Kind::batched_idempotent, Outcome::poison_request, 2, 0, kAllFaults),
                      may(Kind::strict_session, Outcome::session_lost, 0, 0),
                      may(Kind::share, Outcome::no_healthy_replicas, 0, 0),
                      may(Kind::plain, Outcome::backpressure, 0, 0, kFull),
                      may(Kind::deadline, Outcome::deadline_exceeded, 1, 0)));

INSTANTIATE_TEST_SUITE_P(
    MustNotHappen, Settling,
    ::testing::Values(
        must_not(Kind::plain, Outcome::lost, 0, 0, "never answered"),
        must_not(Kind::plain, Outcome::wrong, 1, 1, "something else"),
        must_not(Kind::plain, Outcome::ok, 2, 2, "executed 2 times, 1 allowed"),
        must_not(Kind::idempotent, Outcome::ok, 4, 1, "executed 4 times"),
        must_not(Kind::tensor, Outcome::ok, 0, 0, "without having been"),
        must_not(Kind::tensor, Outcome::ok, 1, 0, "without having been"),
        Case{{7, Kind::plain, Outcome::worker_lost, false, 0, 0}, kAllFaults, "been replayed"},
        must_not(Kind::idempotent, Outcome::worker_lost, 3, 0, "idempotent", kKillsOnly),
        must_not(Kind::idempotent, Outcome::poison_request, 2, 0, "poison", kKillsOnly),
        must_not(Kind::plain, Outcome::poison_request, 1, 0, "poison"),
        must_not(Kind::session, Outcome::session_lost, 0, 0, "session_lost"),
        must_not(Kind::strict_session, Outcome::session_lost, 1, 0, "says that it was not"),
        must_not(Kind::plain, Outcome::deadline_exceeded, 0, 0, "deadline"),
        must_not(Kind::plain, Outcome::no_healthy_replicas, 0, 0, "healthy"),
        must_not(Kind::plain, Outcome::backpressure, 0, 0, "backpressure"),
        must_not(Kind::plain, Outcome::backpressure, 1, 1, "says that it was not", kFull),
        must_not(Kind::plain, Outcome::other, 0, 0, "other")));

TEST(ChaosLedger, CountsWhatWasLostAndDoubled) {
  ChaosLedger ledger(kAllFaults);
  ledger.settle({1, Kind::plain, Outcome::ok, true, 1, 1});
  ledger.settle({2, Kind::plain, Outcome::ok, true, 2, 2});
  ledger.settle({3, Kind::share, Outcome::lost, true, 0, 0});
  ledger.settle({4, Kind::share, Outcome::wrong, true, 1, 1});
  ledger.settle({5, Kind::idempotent, Outcome::ok, true, 9, 1});
  EXPECT_EQ(ledger.requests(), 5u);
  EXPECT_EQ(ledger.lost(), 2u);
  EXPECT_EQ(ledger.doubled(), 2u);
  EXPECT_EQ(ledger.executed(Kind::plain, 1), 1u);
  EXPECT_EQ(ledger.executed(Kind::plain, 2), 1u);
  EXPECT_EQ(ledger.executed(Kind::idempotent, 4), 1u) << "all beyond three";
  EXPECT_EQ(ledger.violated(), 4u);
}

TEST(ChaosLedger, AWorkerThatInterleavesTakesAllItExecutesAlong) {
  for (const std::uint64_t at_once : {1, 10}) {
    ChaosLedger ledger({.at_once = at_once});
    for (std::uint64_t number = 1; number <= 10; ++number)
      ledger.settle({number, Kind::plain, Outcome::worker_lost, true, 1, 0});
    ledger.close({.deaths = 1});
    EXPECT_EQ(ledger.holds(), at_once == 10);
  }
}

TEST(ChaosLedger, AnExecutionAfterTheAnswerIsOneTooMany) {
  const ChaosRequest answered{1, Kind::idempotent, Outcome::ok, true, 2, 1};
  EXPECT_EQ(final_executions(answered), 2u);
  const ChaosRequest given_up{2, Kind::deadline, Outcome::deadline_exceeded, true, 0, 0};
  EXPECT_EQ(final_executions(given_up), 1u) << "it may have been running";
  ChaosLedger ledger(kAllFaults);
  ledger.recheck(1, final_executions(answered), 2);
  ledger.recheck(2, final_executions(given_up), 1);
  EXPECT_TRUE(ledger.holds());
  ledger.recheck(1, final_executions(answered), 3);
  EXPECT_FALSE(ledger.holds());
  EXPECT_EQ(ledger.doubled(), 1u);
}

TEST(ChaosLedger, EachDeathExplainsOneCallOrOneBatch) {
  ChaosLedger ledger(kAllFaults);
  for (std::uint64_t i = 0; i < 3; ++i)
    ledger.settle({i + 1, Kind::plain, Outcome::worker_lost, true, 1, 0});
  for (std::uint64_t i = 0; i < 9; ++i)
    ledger.settle({i + 10, Kind::batched, Outcome::worker_lost, true, 1, 0});
  EXPECT_EQ(ledger.losses(), 5u) << "nine elements take two batches of eight";
  EXPECT_EQ(ledger.executions_lost(), 12u);
  ledger.close({.deaths = 5});
  EXPECT_TRUE(ledger.holds());
  ledger.close({.deaths = 4});
  EXPECT_FALSE(ledger.holds());
}

TEST(ChaosLedger, OnlyWhoWroteGarbageMayBeAccusedOfIt) {
  for (const ChaosEnd& fine :
       {ChaosEnd{.deaths = 2, .scribbled = 2, .violations = 1, .refused = 3}, ChaosEnd{}}) {
    ChaosLedger ledger(kAllFaults);
    ledger.close(fine);
    EXPECT_TRUE(ledger.holds());
  }
  for (const ChaosEnd& wrong :
       {ChaosEnd{.deaths = 2, .violations = 1}, ChaosEnd{.deaths = 2, .refused = 1}}) {
    ChaosLedger ledger(kAllFaults);
    ledger.close(wrong);
    EXPECT_FALSE(ledger.holds());
  }
}

TEST(ChaosLedger, MergesAllAndShowsTheFirstViolations) {
  ChaosLedger sum(kAllFaults);
  for (int client = 0; client < 3; ++client) {
    ChaosLedger ledger(kAllFaults);
    for (std::uint64_t i = 1; i <= 15; ++i)
      ledger.settle({i, Kind::session, Outcome::lost, true, 0, 0});
    ledger.complain("out of order", 15);
    sum.merge(ledger);
  }
  EXPECT_EQ(sum.count(Kind::session, Outcome::lost), 45u);
  EXPECT_EQ(sum.violated(), 48u);
  EXPECT_EQ(sum.violations().size(), ChaosLedger::kMostShown);
  EXPECT_EQ(sum.violations()[15].what, "out of order");
}

}  // namespace
}  // namespace forge::bench
