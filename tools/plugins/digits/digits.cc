// Digits: tells which digit an image of 8×8 pixels shows. A real model, to serve and to measure.
#include <forge/plugin.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/plugins/digits/model.h"

namespace forge::digits {
namespace {

using namespace std::chrono_literals;

class Digits : public ForgeActor {
 public:
  void setup() override { model_ = Mlp::trained(); }

  /// The digit in one image: 64 pixels, 0 to 16.
  int classify(const std::vector<float>& image) const { return classify_one(image); }
  /// The same; the pixels are read where they lie.
  int classify_tensor(const Tensor& image) const { return classify_one(image.span<float>()); }

  /// Batched: images stacked to [n, 64], or [n, 8, 8].
  std::vector<int> classify_batch(const Tensor& images) const {
    const std::span<const float> pixels = images.span<float>();
    const std::size_t count = pixels.size() / kPixels;
    if (pixels.size() % kPixels != 0 || static_cast<std::size_t>(images.shape().front()) != count) {
      throw_bad_size(pixels.size());
    }
    std::vector<std::uint8_t> labels(count);
    model_->classify(pixels, labels);
    return {labels.begin(), labels.end()};
  }

 private:
  int classify_one(std::span<const float> image) const {
    if (image.size() != kPixels) throw_bad_size(image.size());
    std::array<std::uint8_t, 1> label{};
    model_->classify(image, label);
    return label[0];
  }

  [[noreturn]] static void throw_bad_size(std::size_t pixels) {
    throw InvalidArgument("an image of " + std::to_string(pixels) + " pixels; send " +
                          std::to_string(kPixels) + " of them, row by row, 0 to 16");
  }

  std::optional<Mlp> model_;  // set by setup()
};

}  // namespace
}  // namespace forge::digits

FORGE_PLUGIN(m) {
  using namespace forge::digits;
  m.actor<Digits>("Digits", "Tells which digit an image of 8x8 pixels shows.")
      .service_endpoint("classify", &Digits::classify, {.idempotent = true})
      .service_endpoint("classify_tensor", &Digits::classify_tensor, {.idempotent = true})
      .batched_endpoint("classify_batch", &Digits::classify_batch,
                        {.batch_size = 32, .batch_timeout = 1ms, .idempotent = true});
}
