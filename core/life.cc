#include "core/life.h"

#include <algorithm>
#include <cassert>

namespace forge::core {

void Life::enter(Stage to) {
  assert(may_follow(stage_, to));
  stage_ = to;
}

bool Life::any_alive() const {
  return std::any_of(ranks.begin(), ranks.end(), [](const Rank& rank) { return rank.alive; });
}

}  // namespace forge::core
