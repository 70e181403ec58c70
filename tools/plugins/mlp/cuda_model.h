// CudaModel: the model's weights on the current device and the work of one batch, without forge, so
// that the engine can be held against a loop written by hand over the same kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "tools/plugins/cuda/dense.h"
#include "tools/plugins/cuda/device_array.h"
#include "tools/plugins/mlp/model.h"

namespace forge::mlp {

/// Buffers stay where they are, so that forward() can be captured into a graph. One stream at a
/// time.
class CudaModel {
 public:
  /// Throws InvalidArgument for f64, std::runtime_error when the device refuses.
  explicit CudaModel(const Shape& shape);

  /// Where forward() reads and writes: kMostRows rows of the shape's dtype.
  void* input() const { return input_.as<void>(); }
  const void* output() const { return output_.as<void>(); }
  std::size_t row_bytes() const { return shape_.width * cuda::size_of(precision_); }
  const Shape& shape() const { return shape_; }

  /// Work goes into `stream` from now on. Not while it is captured.
  void use(cudaStream_t stream) { blas_.use(stream); }
  /// The first `rows` rows; allocates nothing.
  void forward(std::size_t rows);
  /// Fills all that forward() writes with what is no number.
  void poison();

 private:
  struct Parameters {
    cuda::DeviceArray weights;
    cuda::DeviceArray bias;
  };

  Shape shape_;
  cuda::Precision precision_;
  cuda::Blas blas_;
  std::vector<Parameters> layers_;
  cuda::DeviceArray input_;
  cuda::DeviceArray sums_;    // f32, between product and bias
  cuda::DeviceArray hidden_;  // what a layer hands to the next
  cuda::DeviceArray output_;
};

}  // namespace forge::mlp
