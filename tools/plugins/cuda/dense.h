// Dense layers on a device, such that a row's result depends on that row alone, bit for bit.
//
// cuBLAS chooses its algorithm by the shape of a product, and algorithms round differently. So a
// product here always has kGroup rows: batches are padded to whole groups, and each group is a
// product of its own. Up to kGroup rows the weights are read once, which is what a small batch
// costs anyway.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <cstddef>

#include "tools/plugins/cuda/device_array.h"

namespace forge::cuda {

inline constexpr std::size_t kGroup = 64;
/// Rows a buffer must have so that `rows` of them can go through a layer.
constexpr std::size_t padded(std::size_t rows) { return (rows + kGroup - 1) / kGroup * kGroup; }

/// What operands are stored as; sums are float32 always, and TF32 is never used.
enum class Precision { f32, bf16 };
constexpr std::size_t size_of(Precision precision) { return precision == Precision::f32 ? 4 : 2; }

/// A cuBLAS handle for one stream at a time, with a workspace of its own: the default one is
/// allocated when it is needed, which must not be while a graph is captured.
class Blas {
 public:
  Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;
  ~Blas();

  /// Products go into `stream` from now on.
  void use(cudaStream_t stream);
  cudaStream_t stream() const { return stream_; }

  /// out[rows, outputs] = in[rows, inputs] · weightsᵀ, where weights is [outputs, inputs]. Touches
  /// padded(rows) rows of `in` and `out`; what is beyond `rows` holds anything.
  void multiply(Precision precision, const void* weights, const void* in, float* out,
                std::size_t rows, std::size_t inputs, std::size_t outputs);

 private:
  cublasHandle_t handle_ = nullptr;
  DeviceArray workspace_;
  cudaStream_t stream_ = nullptr;
  bool chosen_ = false;
};

}  // namespace forge::cuda
