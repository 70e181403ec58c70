#include "core/death.h"

namespace forge::core {
namespace {

using replicas::DeathKind;

DeathKind kind_of(const Ending& ending) {
  if (ending.requested) return DeathKind::requested;
  if (ending.by_call) return DeathKind::by_call;
  if (!ending.came_up) return DeathKind::in_setup;
  if (ending.device_lost && ending.answered) return DeathKind::device_lost;
  if (!ending.working) return DeathKind::idle;
  return ending.answered ? DeathKind::serving_after_answer : DeathKind::before_first_answer;
}

}  // namespace

replicas::Death classify(const Ending& ending) {
  return {kind_of(ending), ending.from_outside || ending.shortage};
}

}  // namespace forge::core
