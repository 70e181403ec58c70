// Eigen's view of the flat parameter vector of model.h, for model.cc and train.cc only: nothing
// else should pay for compiling Eigen.
#pragma once

#include <Eigen/Core>

#include "tools/plugins/digits/model.h"

namespace forge::digits {

// A row-major [n, width] batch is, to Eigen, a column-major matrix with one image per column.
template <std::size_t Width>
using Batch = Eigen::Matrix<float, static_cast<int>(Width), Eigen::Dynamic>;

template <std::size_t Rows, std::size_t Cols>
using Weights =
    Eigen::Matrix<float, static_cast<int>(Rows), static_cast<int>(Cols), Eigen::RowMajor>;

template <std::size_t Rows>
using Bias = Eigen::Matrix<float, static_cast<int>(Rows), 1>;

struct ConstLayers {
  Eigen::Map<const Weights<kHidden, kPixels>> hidden_weights;
  Eigen::Map<const Bias<kHidden>> hidden_bias;
  Eigen::Map<const Weights<kClasses, kHidden>> output_weights;
  Eigen::Map<const Bias<kClasses>> output_bias;

  explicit ConstLayers(const float* parameters)
      : hidden_weights(parameters),
        hidden_bias(parameters + kHiddenBiasAt),
        output_weights(parameters + kOutputWeightsAt),
        output_bias(parameters + kOutputBiasAt) {}
};

struct Layers {
  Eigen::Map<Weights<kHidden, kPixels>> hidden_weights;
  Eigen::Map<Bias<kHidden>> hidden_bias;
  Eigen::Map<Weights<kClasses, kHidden>> output_weights;
  Eigen::Map<Bias<kClasses>> output_bias;

  explicit Layers(float* parameters)
      : hidden_weights(parameters),
        hidden_bias(parameters + kHiddenBiasAt),
        output_weights(parameters + kOutputWeightsAt),
        output_bias(parameters + kOutputBiasAt) {}
};

}  // namespace forge::digits
