#include "core/sessions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace forge::core
