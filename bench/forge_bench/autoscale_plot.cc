#include "bench/forge_bench/autoscale_plot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "bench/forge_bench/duration.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {

std::string plot(const std::string& title, const std::vector<double>& values, int rows,
                 const std::function<std::string(double)>& format) {
  static constexpr std::array<const char*, 9> kBlocks = {" ", "▁", "▂", "▃", "▄",
                                                         "▅", "▆", "▇", "█"};
  const double top = values.empty() ? 0 : *std::ranges::max_element(values);
  std::string out;
  for (int row = rows - 1; row >= 0; --row) {
    const std::string label = row == rows - 1 ? format(top) : row == 0 ? "0" : "";
    out += left(row == rows - 1 ? title : "", 12) + right(label, kPlotLabel - 14) + "  ";
    std::string line;
    for (const double value : values) {
      const double eighths = top > 0 ? std::round(value / top * rows * 8) : 0;
      const double least = value > 0 ? 1 : 0;
      const double here = std::clamp(std::max(eighths, least) - row * 8.0, 0.0, 8.0);
      line += kBlocks.at(static_cast<std::size_t>(here));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line;
    out.erase(out.find_last_not_of(' ') + 1);
    out += "\n";
  }
  return out;
}

std::string time_axis(double seconds, std::size_t width) {
  constexpr std::size_t kParts = 4;
  std::string out(kPlotLabel, ' ');
  std::size_t used = 0;
  for (std::size_t i = 0; i <= kParts; ++i) {
    const std::string label =
        i == 0 ? "0" : format_seconds(seconds * static_cast<double>(i) / kParts);
    const std::size_t end =
        i == 0 ? label.size() : std::max(width * i / kParts, used + label.size() + 1);
    out += right(label, end - used);
    used = end;
  }
  return out + "\n";
}

}  // namespace forge::bench
