// What Prometheus is told, by its conventions: base units in the names, _total for what only grows, one
// family for each thing and labels for whose it is. Pure.
#pragma once

#include <prometheus/metric_family.h>

#include <vector>

#include "core/statistics.h"

namespace forge::core {

std::vector<prometheus::MetricFamily> families_of(const ControllerView& controller);

}  // namespace forge::core
