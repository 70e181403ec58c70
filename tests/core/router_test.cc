// Routers: pure choices, so tables and counts say all.
#include <forge/router.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/random.h"

namespace forge {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

/// Healthy replicas with these indices and loads.
std::vector<Replica> replicas(const std::vector<std::pair<std::uint32_t, double>>& loads) {
  std::vector<Replica> healthy;
  for (const auto& [idx, load] : loads) {
    healthy.emplace_back();
    healthy.back().idx = idx;
    healthy.back().current_load = load;
  }
  return healthy;
}
std::vector<Replica> idle(std::uint32_t count) {
  std::vector<std::pair<std::uint32_t, double>> loads;
  for (std::uint32_t idx = 0; idx < count; ++idx) loads.emplace_back(idx, 0);
  return replicas(loads);
}

std::uint32_t pick(Router& router, const std::vector<Replica>& healthy, std::string_view key = {}) {
  static const std::map<std::string, std::uint32_t, std::less<>> kNoSessions;
  const Replica& chosen = router.get_replica(
      healthy, {.endpoint = "f", .sess_id = {}, .session_map = kNoSessions, .key = key});
  EXPECT_GE(&chosen, healthy.data());
  EXPECT_LT(&chosen, healthy.data() + healthy.size()) << "an element of what it was given";
  return chosen.idx;
}

TEST(RoundRobinRouter, TakesEachHealthyReplicaInTurn) {
  RoundRobinRouter router;
  const auto healthy = replicas({{0, 9}, {2, 0}, {5, 3}});
  std::vector<std::uint32_t> picked;
  for (int i = 0; i < 7; ++i) picked.push_back(pick(router, healthy));
  EXPECT_THAT(picked, ElementsAre(0, 2, 5, 0, 2, 5, 0));
}

TEST(RoundRobinRouter, GoesOnWhenReplicasComeAndGo) {
  RoundRobinRouter router;
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < 300; ++i) ++counts[pick(router, idle(1 + static_cast<std::uint32_t>(i) % 3))];
  for (std::uint32_t idx = 0; idx < 3; ++idx) EXPECT_GT(counts[idx], 0) << idx;
  EXPECT_EQ(pick(router, replicas({{7, 0}})), 7u);
}

TEST(LeastLoadedRouter, TakesTheLeastLoadedAndTheFirstAmongEquals) {
  LeastLoadedRouter router;
  EXPECT_EQ(pick(router, replicas({{0, 3}, {1, 1}, {2, 2}})), 1u);
  EXPECT_EQ(pick(router, replicas({{0, 3}, {1, 1}, {2, 1}})), 1u);
  EXPECT_EQ(pick(router, replicas({{3, 0}, {4, 0}})), 3u);
  EXPECT_EQ(pick(router, replicas({{9, 1e9}})), 9u);
}

TEST(LeastLoadedRouter, LooksAtAllOfThemHoweverManyThereAre) {
  auto random = tests::seeded();
  LeastLoadedRouter router;
  for (std::uint32_t count = 1; count < 70; ++count) {
    auto healthy = idle(count);
    for (Replica& replica : healthy) replica.current_load = static_cast<double>(1 + random() % 9);
    const auto least = std::min_element(
        healthy.begin(), healthy.end(),
        [](const Replica& a, const Replica& b) { return a.current_load < b.current_load; });
    EXPECT_EQ(pick(router, healthy), least->idx) << "of " << count;  // the first of them
    healthy[random() % count].current_load = 0.5;
    EXPECT_EQ(healthy[pick(router, healthy)].current_load, 0.5) << "of " << count;
  }
}

TEST(PowerOfTwoRouter, NeverTakesTheMostLoadedOfManyIfItCanHelpIt) {
  PowerOfTwoRouter router;
  std::map<std::uint32_t, int> counts;
  const auto healthy = replicas({{0, 0}, {1, 5}, {2, 5}, {3, 100}});
  constexpr int kCalls = 16'000;
  for (int i = 0; i < kCalls; ++i) ++counts[pick(router, healthy)];
  // Two are drawn, with repetition: the best is among them in 7 of 16, the worst wins 1 of 16.
  EXPECT_NEAR(counts[0], kCalls * 7 / 16, kCalls / 50);
  EXPECT_NEAR(counts[3], kCalls * 1 / 16, kCalls / 50);
}

TEST(PowerOfTwoRouter, SpreadsEvenlyOverEquals) {
  auto random = tests::seeded();
  PowerOfTwoRouter router(random());
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < 8000; ++i) ++counts[pick(router, idle(8))];
  for (const auto& [idx, count] : counts) EXPECT_NEAR(count, 1000, 250) << idx;
  EXPECT_EQ(counts.size(), 8u);
}

TEST(PowerOfTwoRouter, KeepsLoadsCloseTogether) {
  auto random = tests::seeded();
  PowerOfTwoRouter router(random());
  auto healthy = idle(8);
  for (int i = 0; i < 8000; ++i) {
    const std::uint32_t idx = pick(router, healthy);
    healthy[idx].current_load += 1;
  }
  const auto [least, most] = std::minmax_element(
      healthy.begin(), healthy.end(),
      [](const Replica& a, const Replica& b) { return a.current_load < b.current_load; });
  // At random it would be about 100; with two choices it is log log n.
  EXPECT_LT(most->current_load - least->current_load, 15);
}

TEST(PowerOfTwoRouter, IsTheSameForTheSameSeed) {
  PowerOfTwoRouter one(42);
  PowerOfTwoRouter two(42);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(pick(one, idle(5)), pick(two, idle(5)));
}

std::string key(int i) { return "key " + std::to_string(i); }

TEST(HashRouter, SendsEqualKeysToOneReplica) {
  HashRouter one;
  HashRouter two;
  const auto healthy = idle(5);
  for (int i = 0; i < 100; ++i) {
    const std::uint32_t home = pick(one, healthy, key(i));
    std::vector<std::uint32_t> again;
    for (int n = 0; n < 3; ++n) again.push_back(pick(two, healthy, key(i)));
    EXPECT_THAT(again, Each(home)) << key(i);
  }
}

TEST(HashRouter, SpreadsKeys) {
  HashRouter router;
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < 5000; ++i) ++counts[pick(router, idle(5), key(i))];
  for (std::uint32_t idx = 0; idx < 5; ++idx) EXPECT_NEAR(counts[idx], 1000, 200) << idx;
}

TEST(HashRouter, SpreadsKeysOverManyReplicasWithAnyIdx) {
  HashRouter router;
  for (const std::uint32_t first : {0u, 230u, 100'000u}) {
    auto healthy = idle(64);
    for (Replica& replica : healthy) replica.idx += first;
    std::map<std::uint32_t, int> counts;
    for (int i = 0; i < 64'000; ++i) ++counts[pick(router, healthy, key(i))];
    EXPECT_EQ(counts.size(), 64u);
    for (const auto& [idx, count] : counts) EXPECT_NEAR(count, 1000, 200) << idx;
  }
}

TEST(HashRouter, KeysStayWhenAReplicaBeyondTheOthersComes) {
  HashRouter router;
  const auto few = idle(5);
  auto more = few;
  more.push_back(replicas({{300, 0}}).front());
  int moved = 0;
  for (int i = 0; i < 600; ++i) {
    const std::uint32_t now = pick(router, more, key(i));
    if (now == 300) {
      ++moved;
    } else {
      EXPECT_EQ(now, pick(router, few, key(i))) << key(i);
    }
  }
  EXPECT_NEAR(moved, 100, 40);
}

TEST(HashRouter, MovesOnlyTheKeysOfAReplicaThatWentAway) {
  HashRouter router;
  const auto all = idle(5);
  for (std::uint32_t gone = 0; gone < 5; ++gone) {
    auto rest = all;
    rest.erase(rest.begin() + gone);
    for (int i = 0; i < 500; ++i) {
      const std::uint32_t home = pick(router, all, key(i));
      const std::uint32_t now = pick(router, rest, key(i));
      if (home != gone) {
        EXPECT_EQ(now, home) << key(i);
      } else {
        EXPECT_NE(now, gone);
      }
    }
  }
}

TEST(HashRouter, TakesSomebodyForNoKey) {
  HashRouter router;
  EXPECT_EQ(pick(router, idle(4)), pick(router, idle(4)));
  EXPECT_EQ(pick(router, replicas({{6, 0}})), 6u);
}

TEST(HashRouter, GivesAReplicaThatComesBackItsKeysAgain) {
  HashRouter router;
  const auto all = replicas({{0, 0}, {1, 0}, {2, 0}, {3, 0}});
  auto without = all;
  without.erase(without.begin() + 2);
  for (int i = 0; i < 200; ++i) {
    const std::uint32_t home = pick(router, all, key(i));
    pick(router, without, key(i));
    EXPECT_EQ(pick(router, all, key(i)), home) << key(i);
  }
}

TEST(HashRouter, LooksAtIndicesNotAtPlacesOrLoads) {
  HashRouter router;
  for (int i = 0; i < 200; ++i) {
    const std::uint32_t home = pick(router, replicas({{1, 0}, {4, 0}, {7, 0}}), key(i));
    EXPECT_EQ(pick(router, replicas({{1, 90}, {4, 2}, {7, 1e9}}), key(i)), home) << key(i);
  }
}

TEST(Routers, ChooseByThisTable) {
  struct Case {
    const char* what;
    std::vector<std::pair<std::uint32_t, double>> loads;
    std::vector<std::uint32_t> round_robin;  // four calls
    std::uint32_t least_loaded;
  };
  for (const Case& c : {
           Case{"one", {{3, 5}}, {3, 3, 3, 3}, 3},
           Case{"two, even", {{0, 0}, {1, 0}}, {0, 1, 0, 1}, 0},
           Case{"two, uneven", {{0, 1}, {1, 0}}, {0, 1, 0, 1}, 1},
           Case{"a gap", {{0, 2}, {2, 2}, {9, 1}}, {0, 2, 9, 0}, 9},
           Case{"the last is busy", {{0, 0}, {1, 0}, {2, 1e6}}, {0, 1, 2, 0}, 0},
           Case{"fractions", {{0, 0.5}, {1, 0.25}, {2, 0.75}}, {0, 1, 2, 0}, 1},
       }) {
    const auto healthy = replicas(c.loads);
    RoundRobinRouter round_robin;
    LeastLoadedRouter least_loaded;
    PowerOfTwoRouter power_of_two(7);
    std::vector<std::uint32_t> taken;
    for (int i = 0; i < 4; ++i) {
      taken.push_back(pick(round_robin, healthy));
      EXPECT_EQ(pick(least_loaded, healthy), c.least_loaded) << c.what;
    }
    EXPECT_EQ(taken, c.round_robin) << c.what;
    std::map<std::uint32_t, int> counts;
    for (int i = 0; i < 400; ++i) ++counts[pick(power_of_two, healthy)];
    EXPECT_EQ(counts.size(), healthy.size()) << c.what << ": a pair may be twice the same";
  }
}

TEST(Routers, SayWhetherTheyLookAtLoads) {
  EXPECT_FALSE(RoundRobinRouter().wants_load());
  EXPECT_FALSE(HashRouter().wants_load());
  EXPECT_TRUE(LeastLoadedRouter().wants_load());
  EXPECT_TRUE(PowerOfTwoRouter().wants_load());
}

}  // namespace
}  // namespace forge
