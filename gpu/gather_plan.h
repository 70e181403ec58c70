// GatherPlan: how pieces of host memory are best brought into one place on a device. Decided from
// times that were measured on that device; it has no clock and knows no device itself.
//
// Between the shapes that were measured, the logarithm of the time is taken to be linear in the
// logarithms of number and size of the pieces; beyond them, nothing changes any more.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>

#include "gpu/backend.h"

namespace forge::gpu {

/// What there is to gather.
struct GatherShape {
  std::size_t pieces = 0;
  std::size_t bytes = 0;   ///< of all pieces
  bool mapped = false;     ///< the device can read all of it where it lies
  bool capturing = false;  ///< into a graph, which takes no batched copies
};

/// What one path took for so many pieces of one size.
struct GatherTime {
  GatherPath path{};
  std::size_t pieces = 0;
  std::size_t piece_bytes = 0;
  double ns = 0;
};

class GatherPlan {
 public:
  /// The shapes to be measured: every number of pieces with every size.
  static constexpr std::array<std::size_t, 3> kPieces{4, 16, 64};
  static constexpr std::array<std::size_t, 5> kPieceBytes{256, 1 << 10, 4 << 10, 16 << 10,
                                                          64 << 10};

  /// Always copies.
  GatherPlan() = default;
  /// Times of other shapes are ignored. A path for which a shape is missing, or which took no time,
  /// is not there on this device. Of several times for the same, the shortest counts.
  explicit GatherPlan(std::span<const GatherTime> measured);

  /// The path to take: copies, batched or kernel.
  GatherPath choose(const GatherShape& shape) const;

  bool has(GatherPath path) const { return times_[index(path)].has_value(); }

 private:
  /// Logarithms of times, by number and by size.
  using Grid = std::array<std::array<double, kPieceBytes.size()>, kPieces.size()>;

  static constexpr std::size_t index(GatherPath path) { return static_cast<std::size_t>(path); }
  static double look_up(const Grid& grid, const GatherShape& shape);

  std::array<std::optional<Grid>, 4> times_{};  // by path
};

}  // namespace forge::gpu
