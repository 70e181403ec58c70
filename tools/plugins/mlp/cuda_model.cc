#include "tools/plugins/mlp/cuda_model.h"

#include <forge/error.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "tools/plugins/cuda/glue.h"

namespace forge::mlp {
namespace {

cuda::Precision precision_of(DType dtype) {
  if (dtype == DType::f32) return cuda::Precision::f32;
  if (dtype == DType::bf16) return cuda::Precision::bf16;
  throw InvalidArgument("an mlp of " + std::string(to_string(dtype)) +
                        " on a device; it computes in f32 or bf16 there");
}

cuda::DeviceArray upload(const std::vector<float>& values, cuda::Precision precision) {
  if (precision == cuda::Precision::f32) return cuda::DeviceArray::of(values);
  std::vector<std::uint16_t> halves(values.size());
  std::ranges::transform(values, halves.begin(), to_bf16);
  return cuda::DeviceArray::of(halves);
}

}  // namespace

CudaModel::CudaModel(const Shape& shape)
    : shape_(shape),
      precision_(precision_of(shape.dtype)),
      input_(kMostRows * row_bytes()),
      sums_(kMostRows * shape.width * sizeof(float)),
      hidden_(kMostRows * row_bytes()),
      output_(kMostRows * row_bytes()) {
  static_assert(kMostRows % cuda::kGroup == 0, "buffers hold whole groups");
  layers_.reserve(shape.depth);
  for (std::size_t i = 0; i < shape.depth; ++i) {
    const Layer layer = make_layer(shape, i);
    layers_.push_back({upload(layer.weights, precision_), cuda::DeviceArray::of(layer.bias)});
  }
}

void CudaModel::forward(std::size_t rows) {
  const std::size_t width = shape_.width;
  const void* in = input();
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const bool last = i + 1 == layers_.size();
    void* out = last ? output_.as<void>() : hidden_.as<void>();
    blas_.multiply(precision_, layers_[i].weights.as<void>(), in, sums_.as<float>(), rows, width,
                   width);
    cuda::add_bias(sums_.as<float>(), layers_[i].bias.as<float>(), out, precision_, rows, width,
                   !last, blas_.stream());
    in = out;
  }
}

void CudaModel::poison() {
  for (const cuda::DeviceArray* array : {&sums_, &hidden_, &output_}) {
    cuda::check(cudaMemsetAsync(array->as<void>(), 0xFF, array->size(), blas_.stream()),
                "poisoning a buffer");
  }
}

}  // namespace forge::mlp
