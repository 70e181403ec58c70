// The handwritten digits that the digits plugin, its trainer and forge-bench share: 1,797 real
// images compiled into the library, so that nobody has to find a data file at run time. See
// DATA.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace forge::digits {

inline constexpr std::size_t kPixels = 64;  // 8 rows of 8
inline constexpr std::size_t kClasses = 10;
inline constexpr std::size_t kImages = 1797;
inline constexpr std::size_t kHeldOutImages = kImages / 3;

/// Images lie one behind the other, so that any run of them is a row-major [n, 64] batch.
struct ImageSet {
  std::vector<float> pixels;         // [size(), 64]; 0 is paper, 16 is ink
  std::vector<std::uint8_t> labels;  // 0 to 9

  std::size_t size() const { return labels.size(); }
  std::span<const float, kPixels> image(std::size_t i) const {
    return std::span<const float, kPixels>(pixels.data() + i * kPixels, kPixels);
  }
};

// The split needs no seed: every third image of the file (the 3rd, the 6th, ...) is held out. Both
// sets are built on first use, by whichever thread comes first, and live until the process ends.

/// The 1,198 images that the trainer may learn from.
const ImageSet& training_images();

/// The 599 images that no training step sees; accuracy is reported on these.
const ImageSet& held_out_images();

}  // namespace forge::digits
