#include "core/sessions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/random.h"

namespace forge::core {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::Pair;

constexpr Sessions::Time kStart{};

TEST(Sessions, HaveOneNumberEachThatIsNeverUsedAgain) {
  Sessions sessions;
  const auto a = sessions.open("a", false, kStart);
  EXPECT_EQ(sessions.open("a", true, kStart), a);
  EXPECT_FALSE(sessions.at(a).strict) << "the first one says";
  EXPECT_NE(sessions.open("b", false, kStart), a);
  EXPECT_TRUE(sessions.end("a"));
  EXPECT_FALSE(sessions.end("a"));
  EXPECT_NE(sessions.open("a", false, kStart), a);
  EXPECT_NE(a, 0U);
  EXPECT_EQ(sessions.find("nobody"), 0U);
}

TEST(Sessions, AreCountedWhereTheyStick) {
  Sessions sessions;
  const auto a = sessions.open("a", false, kStart);
  const auto b = sessions.open("b", false, kStart);
  EXPECT_TRUE(sessions.map().empty()) << "not placed yet";
  sessions.place(a, 1);
  sessions.place(b, 1);
  EXPECT_EQ(sessions.on(1), 2U);
  sessions.place(b, 0);
  EXPECT_THAT(sessions.map(), ElementsAre(Pair("a", 1), Pair("b", 0)));
  sessions.end("a");
  EXPECT_EQ(sessions.on(1), 0U);
  EXPECT_THAT(sessions.map(), ElementsAre(Pair("b", 0)));
}

TEST(Sessions, LiveUntilTheirLastCallIsOver) {
  Sessions sessions;
  const auto a = sessions.open("a", false, kStart);
  sessions.place(a, 0);
  sessions.begin_call(a);
  sessions.begin_call(a);
  EXPECT_TRUE(sessions.end("a"));
  EXPECT_EQ(sessions.size(), 0U);
  EXPECT_EQ(sessions.on(0), 1U) << "it still has calls there";
  sessions.end_call(a, kStart);
  EXPECT_EQ(sessions.at(a).calls, 1U);
  sessions.end_call(a, kStart);
  EXPECT_EQ(sessions.on(0), 0U);
}

TEST(Sessions, LoseTheirReplicaWithItsState) {
  Sessions sessions;
  const auto easy = sessions.open("easy", false, kStart);
  const auto strict = sessions.open("strict", true, kStart);
  const auto other = sessions.open("other", true, kStart);
  sessions.place(easy, 0);
  sessions.place(strict, 0);
  sessions.place(other, 1);
  sessions.replica_lost(0);
  EXPECT_THAT(sessions.map(), ElementsAre(Pair("other", 1)));
  EXPECT_EQ(sessions.at(easy).replica, kNoReplica);
  EXPECT_FALSE(sessions.at(easy).lost);
  EXPECT_TRUE(sessions.at(strict).lost);
  EXPECT_FALSE(sessions.at(other).lost);
}

TEST(Sessions, AreForgottenWhenTheyAreIdle) {
  Sessions sessions;
  const auto busy = sessions.open("busy", false, kStart);
  sessions.open("idle", false, kStart);
  const auto used = sessions.open("used", false, kStart);
  sessions.begin_call(busy);
  sessions.begin_call(used);
  sessions.end_call(used, kStart + 5s);
  EXPECT_TRUE(sessions.evict(kStart + 10s, 10s));
  EXPECT_EQ(sessions.find("idle"), 0U);
  EXPECT_EQ(sessions.size(), 2U);
  sessions.end_call(busy, kStart + 10s);
  EXPECT_TRUE(sessions.evict(kStart + 15s, 10s));
  EXPECT_FALSE(sessions.evict(kStart + 20s, 10s));
  EXPECT_EQ(sessions.size(), 0U);
}

TEST(Sessions, HearOfALossByThisTable) {
  struct Case {
    const char* what;
    bool strict;
    std::uint32_t place;  // kNoReplica: it has not made a call
    std::uint32_t dies;
    bool lost;
    std::uint32_t after;
  };
  for (const Case& c : {
           Case{"easy, there", false, 1, 1, false, kNoReplica},
           Case{"easy, elsewhere", false, 1, 2, false, 1},
           Case{"strict, there", true, 1, 1, true, kNoReplica},
           Case{"strict, elsewhere", true, 1, 2, false, 1},
           Case{"strict, nowhere yet", true, kNoReplica, 1, false, kNoReplica},
           Case{"easy, nowhere yet", false, kNoReplica, 1, false, kNoReplica},
       }) {
    Sessions sessions;
    const auto number = sessions.open("s", c.strict, kStart);
    if (c.place != kNoReplica) sessions.place(number, c.place);
    sessions.replica_lost(c.dies);
    EXPECT_EQ(sessions.at(number).lost, c.lost) << c.what;
    EXPECT_EQ(sessions.at(number).replica, c.after) << c.what;
    EXPECT_EQ(sessions.map().size(), c.after == kNoReplica ? 0U : 1U) << c.what;
    EXPECT_EQ(sessions.on(1), c.after == 1 ? 1U : 0U) << c.what;
    EXPECT_EQ(sessions.find("s"), number) << c.what << ": it goes on";
  }
}

TEST(Sessions, HearOfALossOncePerPlace) {
  Sessions sessions;
  const auto number = sessions.open("s", true, kStart);
  sessions.place(number, 0);
  sessions.replica_lost(0);
  EXPECT_TRUE(sessions.at(number).lost);
  sessions.replica_lost(0);
  EXPECT_TRUE(sessions.at(number).lost) << "nobody has told it yet";
  sessions.at(number).lost = false;
  sessions.replica_lost(0);
  EXPECT_FALSE(sessions.at(number).lost) << "it was not there any more";
  sessions.place(number, 2);
  sessions.replica_lost(2);
  EXPECT_TRUE(sessions.at(number).lost);
}

TEST(Sessions, AreEvictedByThisTable) {
  struct Case {
    const char* what;
    int begun;
    int ended;
    std::chrono::nanoseconds last;  // when the last call ended
    std::chrono::nanoseconds now;
    bool stays;
  };
  for (const Case& c : {
           Case{"never called, in time", 0, 0, 0s, 10s - 1ns, true},
           Case{"never called, too long", 0, 0, 0s, 10s, false},
           Case{"called, in time", 1, 1, 3s, 13s - 1ns, true},
           Case{"called, too long", 1, 1, 3s, 13s, false},
           Case{"busy", 1, 0, 0s, 1h, true},
           Case{"one of two ended", 2, 1, 1s, 1h, true},
           Case{"both ended", 2, 2, 1s, 1h, false},
       }) {
    Sessions sessions;
    const auto number = sessions.open("s", false, kStart);
    sessions.place(number, 0);
    for (int i = 0; i < c.begun; ++i) sessions.begin_call(number);
    for (int i = 0; i < c.ended; ++i) sessions.end_call(number, kStart + c.last);
    EXPECT_EQ(sessions.evict(kStart + c.now, 10s), c.stays) << c.what;
    EXPECT_EQ(sessions.find("s"), c.stays ? number : 0U) << c.what;
    EXPECT_EQ(sessions.on(0), c.stays ? 1U : 0U) << c.what;
    EXPECT_EQ(sessions.map().size(), c.stays ? 1U : 0U) << c.what;
  }
}

TEST(Sessions, OfOneIdAreApartOnceTheFirstHasEnded) {
  Sessions sessions;
  const auto first = sessions.open("s", true, kStart);
  sessions.place(first, 0);
  sessions.begin_call(first);
  sessions.end("s");
  const auto second = sessions.open("s", false, kStart);
  sessions.place(second, 1);
  EXPECT_THAT(sessions.map(), ElementsAre(Pair("s", 1)));
  sessions.replica_lost(0);  // of the one that is ending
  EXPECT_THAT(sessions.map(), ElementsAre(Pair("s", 1)));
  sessions.place(first, 2);
  EXPECT_THAT(sessions.map(), ElementsAre(Pair("s", 1)));
  sessions.end_call(first, kStart);
  EXPECT_EQ(sessions.find("s"), second);
  EXPECT_THAT(sessions.map(), ElementsAre(Pair("s", 1)));
  EXPECT_EQ(sessions.on(0) + sessions.on(2), 0U);
}

/// The same, written down without any thought of speed.
struct PlainSessions {
  struct One {
    std::string id;
    std::uint64_t number;
    std::uint32_t replica = kNoReplica;
    bool strict;
    bool lost = false;
    bool ended = false;
    int calls = 0;
    Sessions::Time idle_since;
  };
  One* named(const std::string& id) {
    for (auto& [number, one] : all) {
      if (one.id == id && !one.ended) return &one;
    }
    return nullptr;
  }
  std::size_t on(std::uint32_t replica) const {
    std::size_t count = 0;
    for (const auto& [number, one] : all) count += one.replica == replica;
    return count;
  }
  Sessions::Map map() const {
    Sessions::Map result;
    for (const auto& [number, one] : all) {
      if (!one.ended && one.replica != kNoReplica) result[one.id] = one.replica;
    }
    return result;
  }
  void sweep() {
    std::erase_if(all, [](const auto& e) { return e.second.ended && e.second.calls == 0; });
  }
  std::map<std::uint64_t, One> all;
};

TEST(Sessions, OfThousandsOfIdsAgreeWithASimpleModel) {
  auto random = tests::seeded();
  Sessions sessions;
  PlainSessions model;
  Sessions::Time now = kStart;
  const auto any = [&]() -> PlainSessions::One* {
    if (model.all.empty()) return nullptr;
    const auto from = model.all.lower_bound(tests::below(random, model.all.rbegin()->first) + 1);
    return &from->second;
  };
  for (int step = 0; step < 40'000; ++step) {
    now += std::chrono::milliseconds(tests::below(random, 3));
    const std::string id = "id " + std::to_string(tests::below(random, 5000));
    PlainSessions::One* const one = any();
    switch (tests::below(random, step % 4000 < 3000 ? 12 : 16)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4: {
        const bool strict = tests::below(random, 2) == 0;
        const auto number = sessions.open(id, strict, now);
        const auto* const known = model.named(id);
        ASSERT_TRUE(known == nullptr ? !model.all.contains(number) : known->number == number);
        if (known == nullptr)
          model.all[number] = {.id = id, .number = number, .strict = strict, .idle_since = now};
        break;
      }
      case 5:
      case 6:
      case 7:
        if (one == nullptr) break;
        one->replica = static_cast<std::uint32_t>(tests::below(random, 8));
        sessions.place(one->number, one->replica);
        break;
      case 8:
        if (one == nullptr) break;
        ++one->calls;
        sessions.begin_call(one->number);
        break;
      case 9:
      case 10:
        if (one == nullptr || one->calls == 0) break;
        --one->calls;
        one->idle_since = now;
        sessions.end_call(one->number, now);
        break;
      case 11: {
        auto* const known = model.named(id);
        ASSERT_EQ(sessions.end(id), known != nullptr);
        if (known != nullptr) known->ended = true;
        break;
      }
      case 12: {
        if (tests::below(random, 20) != 0) break;
        const auto replica = static_cast<std::uint32_t>(tests::below(random, 8));
        sessions.replica_lost(replica);
        for (auto& [number, each] : model.all) {
          if (each.replica != replica) continue;
          each.replica = kNoReplica;
          each.lost = each.strict;
        }
        break;
      }
      default: {
        if (tests::below(random, 20) != 0) break;
        const auto timeout = std::chrono::milliseconds(tests::below(random, 4000));
        for (auto& [number, each] : model.all)
          each.ended = each.ended || (each.calls == 0 && now - each.idle_since >= timeout);
        model.sweep();
        bool any_left = false;
        for (const auto& [number, each] : model.all) any_left = any_left || !each.ended;
        ASSERT_EQ(sessions.evict(now, timeout), any_left);
      }
    }
    model.sweep();
    if (step % 1000 != 0) continue;
    ASSERT_EQ(sessions.map(), model.map()) << "step " << step;
    std::size_t open = 0;
    for (const auto& [number, each] : model.all) {
      open += !each.ended;
      ASSERT_EQ(sessions.at(number).replica, each.replica);
      ASSERT_EQ(sessions.at(number).lost, each.lost);
      ASSERT_EQ(sessions.at(number).calls, static_cast<std::uint32_t>(each.calls));
    }
    ASSERT_EQ(sessions.size(), open);
    for (std::uint32_t replica = 0; replica < 8; ++replica)
      ASSERT_EQ(sessions.on(replica), model.on(replica)) << "step " << step;
  }
}

}  // namespace
}  // namespace forge::core
