#include "tools/plugins/digits/data.h"

#include <iterator>

namespace forge::digits {
namespace {

using Row = std::uint8_t[kPixels + 1];  // the pixels, then the label

constexpr Row kRows[] = {
#include "digits.inc"  // made from digits.csv by CMake: one braced row per line
};
static_assert(std::size(kRows) == kImages);

constexpr bool is_held_out(std::size_t row) { return row % 3 == 2; }

ImageSet select(bool held_out) {
  ImageSet set;
  const std::size_t count = held_out ? kHeldOutImages : kImages - kHeldOutImages;
  set.pixels.reserve(count * kPixels);
  set.labels.reserve(count);
  for (std::size_t row = 0; row < kImages; ++row) {
    if (is_held_out(row) != held_out) continue;
    set.pixels.insert(set.pixels.end(), kRows[row], kRows[row] + kPixels);
    set.labels.push_back(kRows[row][kPixels]);
  }
  return set;
}

}  // namespace

const ImageSet& training_images() {
  static const ImageSet set = select(false);
  return set;
}

const ImageSet& held_out_images() {
  static const ImageSet set = select(true);
  return set;
}

}  // namespace forge::digits
