// What `forge top` and `forge stats` show, as JSON. Each number has its unit in its name; numbers without
// one are counts. "at_ns" is CLOCK_MONOTONIC: whoever shows it knows what time that was.
#pragma once

#include <string>
#include <vector>

#include "core/engine.h"
#include "core/event_log.h"
#include "core/frames.h"

namespace forge::core {

/// Who is asked.
struct Identity {
  std::string name;  ///< ControllerOptions::name
  std::string program;
  SteadyTime born{};
};
Json to_json(const Identity& identity);
Json to_json(const Event& event);

/// One line of `forge ps`.
Json summary_of(Engine& engine);
/// Takes the engine's lock a few times, for microseconds each.
Json statistics_of(Engine& engine);
/// Of all of a controller's.
Json statistics_of(const Identity& identity, const std::vector<std::shared_ptr<Engine>>& engines);

}  // namespace forge::core
