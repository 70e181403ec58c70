// Measures how long the paths of a gather take on a device, for GatherPlan.
#pragma once

#include <forge/result.h>

#include <vector>

#include "gpu/backend.h"
#include "gpu/gather_plan.h"

namespace forge::gpu {

/// Takes some ten milliseconds. Paths that the device refuses are left out; without memory for it,
/// all are. Error: what has left the device unusable.
Result<std::vector<GatherTime>> measure_gather(Backend& backend);

}  // namespace forge::gpu
