// Classifier: the model as one worker runs it, on the host or on its device.
#pragma once

#include <forge/tensor.h>

#include <cstdint>
#include <memory>
#include <span>

namespace forge::digits {

/// Answers are valid until the next call, and a row's does not depend on the others (model.h).
class Classifier {
 public:
  Classifier() = default;
  Classifier(const Classifier&) = delete;
  Classifier& operator=(const Classifier&) = delete;
  virtual ~Classifier() = default;

  /// The digit in each of the images, [n, 64] in host memory.
  virtual std::span<const std::uint8_t> classify(std::span<const float> images) = 0;
  /// The same of [n, …] where the worker put it, f32 with 64 pixels in a row.
  virtual std::span<const std::uint8_t> classify(const Tensor& images) = 0;
};

std::unique_ptr<Classifier> make_host_classifier();
/// For the worker that calls it: on its device, if it has one and the plugin was built for it.
std::unique_ptr<Classifier> make_classifier();

}  // namespace forge::digits
