#include <forge/actor.h>

#include <vector>

#include "tools/plugins/digits/classifier.h"
#include "tools/plugins/digits/model.h"

namespace forge::digits {
namespace {

class HostClassifier final : public Classifier {
 public:
  std::span<const std::uint8_t> classify(std::span<const float> images) override {
    labels_.resize(images.size() / kPixels);
    model_.classify(images, labels_);
    return labels_;
  }
  std::span<const std::uint8_t> classify(const Tensor& images) override {
    const Tensor here = context().to_host(images);  // the worker may have a device all the same
    return classify(here.span<float>());
  }

 private:
  const Mlp model_ = Mlp::trained();
  std::vector<std::uint8_t> labels_;
};

}  // namespace

std::unique_ptr<Classifier> make_host_classifier() { return std::make_unique<HostClassifier>(); }

}  // namespace forge::digits
