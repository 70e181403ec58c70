// What forge-bench autoscale says, to people and as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "bench/forge_bench/autoscale_plan.h"
#include "bench/forge_bench/autoscale_sim.h"

namespace forge::bench {

struct AutoscaleResult {
  Traffic traffic;
  SimRun run;
  ForesightPlan plan;

  double ratio() const;  ///< replica-hours, to the plan's; 0 if there is none
};

std::string to_text(const AutoscaleOptions& options, const AutoscaleResult& result);
nlohmann::ordered_json to_json(const AutoscaleOptions& options, const AutoscaleResult& result);

/// The options as a program writes them, without what is a default.
std::string as_code(const forge::Options& options);

}  // namespace forge::bench
