// Stages of a life, and what its end says of the replica.
#include "core/life.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/death.h"

namespace forge::core {
namespace {

constexpr Stage kAll[] = {Stage::planned, Stage::spawning, Stage::running, Stage::fenced,
                          Stage::ended};

TEST(Life, FollowsThisTable) {
  const bool expected[5][5] = {
      // planned, spawning, running, fenced, ended
      {false, true, false, false, true},   // from planned
      {false, false, true, true, false},   // from spawning
      {false, false, false, true, true},   // from running
      {false, false, false, false, true},  // from fenced
      {false, false, false, false, false}  // from ended
  };
  for (const Stage from : kAll) {
    for (const Stage to : kAll) {
      EXPECT_EQ(may_follow(from, to), expected[static_cast<int>(from)][static_cast<int>(to)])
          << static_cast<int>(from) << " to " << static_cast<int>(to);
    }
  }
}

/// Whatever happens to a life in whatever order, it ends, and ends once.
TEST(Life, EndsOnEveryWay) {
  std::vector<std::vector<Stage>> ways{{Stage::planned}};
  std::size_t ended = 0;
  while (!ways.empty()) {
    const std::vector<Stage> way = ways.back();
    ways.pop_back();
    ASSERT_LE(way.size(), 5U) << "no stage comes twice";
    bool goes_on = false;
    for (const Stage next : kAll) {
      if (!may_follow(way.back(), next)) continue;
      goes_on = true;
      ways.push_back(way);
      ways.back().push_back(next);
    }
    EXPECT_EQ(goes_on, way.back() != Stage::ended);
    ended += !goes_on;
  }
  EXPECT_EQ(ended, 4U) << "called off; ended by itself; fenced; fenced while it was being started";
}

TEST(Death, IsClassifiedByThisTable) {
  using replicas::DeathKind;
  struct Case {
    Ending ending;
    DeathKind kind;
    bool from_outside;
  };
  const Case cases[] = {
      {{}, DeathKind::in_setup, false},
      {{.from_outside = true}, DeathKind::in_setup, true},
      {{.shortage = true}, DeathKind::in_setup, true},
      {{.requested = true}, DeathKind::requested, false},
      {{.by_call = true, .came_up = true, .working = true}, DeathKind::by_call, false},
      {{.came_up = true}, DeathKind::idle, false},
      {{.came_up = true, .from_outside = true}, DeathKind::idle, true},
      {{.came_up = true, .working = true}, DeathKind::before_first_answer, false},
      {{.came_up = true, .answered = true, .working = true},
       DeathKind::serving_after_answer,
       false},
      {{.came_up = true, .answered = true, .device_lost = true}, DeathKind::device_lost, false},
      {{.came_up = true, .device_lost = true}, DeathKind::idle, false},
      {{.device_lost = true}, DeathKind::in_setup, false},
      {{.requested = true, .came_up = true, .answered = true, .from_outside = true},
       DeathKind::requested,
       true},
  };
  for (const Case& c : cases) {
    const replicas::Death death = classify(c.ending);
    EXPECT_EQ(death.kind, c.kind) << &c - cases;
    EXPECT_EQ(death.from_outside, c.from_outside) << &c - cases;
  }
}

}  // namespace
}  // namespace forge::core
