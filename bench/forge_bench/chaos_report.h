// What forge-bench chaos found, for people and as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "bench/forge_bench/chaos.h"

namespace forge::bench {

/// Its last line says whether all that forge promises was kept.
std::string to_text(const ChaosOptions& options, const ChaosRun& run);
nlohmann::ordered_json to_json(const ChaosOptions& options, const ChaosRun& run);

}  // namespace forge::bench
