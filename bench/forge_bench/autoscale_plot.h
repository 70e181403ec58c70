// Values over time as text: columns of blocks.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace forge::bench {

inline constexpr std::size_t kPlotLabel = 22;  ///< columns at the left

/// `rows` lines of one character per value, the highest value as high as they are, which stands at
/// the left of the first line. What is not 0 shows.
std::string plot(const std::string& title, const std::vector<double>& values, int rows,
                 const std::function<std::string(double)>& format);

/// The line below: times from 0 to `seconds`, over `width` characters.
std::string time_axis(double seconds, std::size_t width);

}  // namespace forge::bench
