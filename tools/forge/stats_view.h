// A controller's statistics as lines of text. Pure.
#pragma once

#include <string>
#include <vector>

#include "core/frames.h"

namespace forge::tool {

/// Header and tables: services, their replicas and spares, their endpoints. What is missing or of
/// another type than a controller writes is shown as nothing.
std::vector<std::string> view_of(const core::Json& statistics);

/// The same as a picture of `rows` lines, with the last events below; 0 rows: as many as it needs.
std::vector<std::string> picture_of(const core::Json& statistics,
                                    const std::vector<core::Json>& events, std::size_t rows,
                                    std::size_t columns);

}  // namespace forge::tool
