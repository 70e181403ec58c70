// Eigen's view of a layer of model.h, for the host's sources only: nothing else should pay for
// compiling Eigen.
#pragma once

#include <Eigen/Core>

#include "tools/plugins/mlp/model.h"

namespace forge::mlp {

// A row-major [n, width] batch is, to Eigen, a column-major matrix with one row of it per column.
template <class Scalar>
using Columns = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

template <class Scalar>
class Weights {
 public:
  Weights(const Layer& layer, std::size_t width)
      : weights_(Eigen::Map<const RowMajor<float>>(layer.weights.data(), at(width), at(width))
                     .template cast<Scalar>()),
        bias_(
            Eigen::Map<const Vector<float>>(layer.bias.data(), at(width)).template cast<Scalar>()) {
  }

  Columns<Scalar> forward(const Columns<Scalar>& in, bool activate) const {
    Columns<Scalar> out = (weights_ * in).colwise() + bias_;
    if (activate) out = out.cwiseMax(Scalar(0));
    return out;
  }

 private:
  template <class T>
  using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  template <class T>
  using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;

  static Eigen::Index at(std::size_t size) { return static_cast<Eigen::Index>(size); }

  RowMajor<Scalar> weights_;
  Vector<Scalar> bias_;
};

}  // namespace forge::mlp
