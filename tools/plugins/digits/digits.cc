// Digits: tells which digit an image of 8×8 pixels shows. A real model, to serve and to measure.
// One source for both plugins: which make_classifier() it is linked with says where they compute.
#include <forge/plugin.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/plugins/digits/classifier.h"
#include "tools/plugins/digits/model.h"
#include "tools/plugins/digits/serving.h"

namespace forge::digits {
namespace {

/// Every endpoint takes a batch and makes one matrix product of it. A row's answer does not depend
/// on its batch (model.h), so callers cannot tell how their calls were put together.
class Digits : public ForgeActor {
 public:
  void setup() override { classifier_ = make_classifier(); }

  /// The digit in each image: 64 pixels, 0 to 16. One of another size is an error of its own.
  std::vector<Result<int>> classify(const std::vector<std::vector<float>>& images) {
    pixels_.clear();
    for (const std::vector<float>& image : images) {
      if (image.size() == kPixels) pixels_.insert(pixels_.end(), image.begin(), image.end());
    }
    std::span<const std::uint8_t> labels;
    if (!pixels_.empty()) labels = classifier_->classify(pixels_);
    auto next = labels.begin();
    std::vector<Result<int>> answers;
    answers.reserve(images.size());
    for (const std::vector<float>& image : images) {
      if (image.size() == kPixels) {
        answers.emplace_back(*next++);
      } else {
        answers.emplace_back(std::make_shared<const InvalidArgument>(bad_size(image.size())));
      }
    }
    return answers;
  }

  /// The same, of images stacked to [n, 64] or [n, 8, 8]: the pixels are read where they lie.
  std::vector<int> classify_tensor(const Tensor& images) {
    const auto count = static_cast<std::size_t>(images.shape().front());
    if (images.dtype() != DType::f32 || images.size() != count * kPixels) {
      throw InvalidArgument(bad_size(images.size() / count));
    }
    const std::span<const std::uint8_t> labels = classifier_->classify(images);
    return {labels.begin(), labels.end()};
  }

 private:
  static std::string bad_size(std::size_t pixels) {
    return "an image of " + std::to_string(pixels) + " pixels; send " + std::to_string(kPixels) +
           " of them as f32, row by row, 0 to 16";
  }

  std::unique_ptr<Classifier> classifier_;  // set by setup()
  std::vector<float> pixels_;
};

}  // namespace
}  // namespace forge::digits

FORGE_PLUGIN(m) {
  using namespace forge::digits;
  m.actor<Digits>("Digits", "Tells which digit an image of 8x8 pixels shows.")
      .batched_endpoint("classify", &Digits::classify, serving())
      .batched_endpoint("classify_tensor", &Digits::classify_tensor, serving());
}
