// Where the time of a run's requests went: the client's share by this program's clock, the rest by the
// service's own metrics.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/forge_bench/run.h"

namespace forge::bench {

/// A table with a row for each part, then how large batches were, then what to try next.
std::string time_split_text(const Options& options, const std::vector<Run>& runs);
/// Puts "time" and "batch_sizes" into a report.
void put_time_split(nlohmann::ordered_json& json, const std::vector<Run>& runs);

}  // namespace forge::bench
