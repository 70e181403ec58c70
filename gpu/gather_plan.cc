#include "gpu/gather_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace forge::gpu {
namespace {

constexpr std::array kPaths{GatherPath::copies, GatherPath::batched, GatherPath::kernel};

/// Where a value lies on an axis of measured ones: between `below` and the next, `share` of the way.
struct Place {
  std::size_t below;
  double share;
};

template <std::size_t n>
Place locate(const std::array<std::size_t, n>& axis, double value) {
  static_assert(n >= 2);
  const double clamped =
      std::clamp(value, static_cast<double>(axis.front()), static_cast<double>(axis.back()));
  std::size_t below = 0;
  while (below + 2 < n && clamped >= static_cast<double>(axis[below + 1])) ++below;
  const double from = std::log(static_cast<double>(axis[below]));
  const double to = std::log(static_cast<double>(axis[below + 1]));
  return {below, (std::log(clamped) - from) / (to - from)};
}

double between(double a, double b, double share) { return a + (b - a) * share; }

template <std::size_t n>
std::size_t position(const std::array<std::size_t, n>& axis, std::size_t value) {
  return static_cast<std::size_t>(std::ranges::find(axis, value) - axis.begin());
}

}  // namespace

GatherPlan::GatherPlan(std::span<const GatherTime> measured) {
  constexpr double kMissing = std::numeric_limits<double>::infinity();
  for (const GatherPath path : kPaths) {
    Grid grid;
    for (auto& row : grid) row.fill(kMissing);
    for (const GatherTime& time : measured) {
      const std::size_t i = position(kPieces, time.pieces);
      const std::size_t j = position(kPieceBytes, time.piece_bytes);
      if (time.path != path || i == grid.size() || j == grid[0].size() || !(time.ns > 0)) continue;
      grid[i][j] = std::min(grid[i][j], std::log(time.ns));
    }
    const bool complete = std::ranges::all_of(grid, [](const auto& row) {
      return std::ranges::all_of(row, [](double log_ns) { return std::isfinite(log_ns); });
    });
    if (complete) times_[index(path)] = grid;
  }
}

double GatherPlan::look_up(const Grid& grid, const GatherShape& shape) {
  const auto pieces = static_cast<double>(shape.pieces);
  const Place row = locate(kPieces, pieces);
  const Place column = locate(kPieceBytes, static_cast<double>(shape.bytes) / pieces);
  const auto in_row = [&](std::size_t i) {
    return between(grid[i][column.below], grid[i][column.below + 1], column.share);
  };
  return between(in_row(row.below), in_row(row.below + 1), row.share);
}

GatherPath GatherPlan::choose(const GatherShape& shape) const {
  if (shape.pieces < 2 || shape.bytes == 0) return GatherPath::copies;
  GatherPath best = GatherPath::copies;
  double least = std::numeric_limits<double>::infinity();
  for (const GatherPath path : kPaths) {
    const auto& grid = times_[index(path)];
    if (!grid || (path == GatherPath::kernel && !shape.mapped) ||
        (path == GatherPath::batched && shape.capturing)) {
      continue;
    }
    if (const double cost = look_up(*grid, shape); cost < least) {
      least = cost;
      best = path;
    }
  }
  return best;
}

}  // namespace forge::gpu
