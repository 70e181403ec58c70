// libdigits_cuda.so: the model on the worker's device; on the host where it has none.
#include <cuda_runtime_api.h>
#include <forge/actor.h>
#include <forge/device.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "tools/plugins/cuda/dense.h"
#include "tools/plugins/cuda/device_array.h"
#include "tools/plugins/cuda/glue.h"
#include "tools/plugins/digits/classifier.h"
#include "tools/plugins/digits/model.h"

namespace forge::digits {
namespace {

cudaStream_t call_stream() { return static_cast<cudaStream_t>(context().stream()); }

/// The model's buffers stay where they are, as graphs need it.
class CudaClassifier final : public Classifier {
 public:
  static constexpr std::size_t kMostRows = 256;  // the largest batch forge makes

  CudaClassifier() {
    // Kernels are loaded when they are first launched: now, so that the first call need not wait.
    blas_.use(call_stream());
    forward(kMostRows);
    cuda::check(cudaStreamSynchronize(call_stream()), "running the model for the first time");
  }

  std::span<const std::uint8_t> classify(std::span<const float> images) override {
    Tensor here(DType::f32, {static_cast<std::int64_t>(images.size() / kPixels), kPixels});
    std::ranges::copy(images, here.span<float>().begin());
    return classify(context().to_device(here));
  }

  std::span<const std::uint8_t> classify(const Tensor& images) override {
    const std::size_t rows = images.size() / kPixels;
    cudaStream_t const stream = call_stream();
    blas_.use(stream);
    cuda::copy(images_.as<void>(), images.device_data<float>(), images.byte_count(), stream);
    graphs_.run(rows, [this](std::size_t bucket) { forward(bucket); });
    Tensor labels = context().allocate_device(DType::i32, {static_cast<std::int64_t>(rows)});
    cuda::copy(labels.device_data<std::int32_t>(), numbers_.as<void>(), labels.byte_count(),
               stream);
    const Tensor here = context().to_host(labels);
    labels_.assign(here.span<std::int32_t>().begin(), here.span<std::int32_t>().end());
    return labels_;
  }

 private:
  static cuda::DeviceArray upload(const Mlp& model) {
    const std::span<const float> all = model.parameters();
    return cuda::DeviceArray::of(std::vector<float>(all.begin(), all.end()));
  }

  void forward(std::size_t rows) {
    const auto* const parameters = parameters_.as<float>();
    auto* const hidden = hidden_.as<float>();
    cudaStream_t const stream = blas_.stream();
    blas_.multiply(cuda::Precision::f32, parameters, images_.as<void>(), hidden, rows, kPixels,
                   kHidden);
    cuda::add_bias(hidden, parameters + kHiddenBiasAt, hidden, cuda::Precision::f32, rows, kHidden,
                   true, stream);
    blas_.multiply(cuda::Precision::f32, parameters + kOutputWeightsAt, hidden, logits_.as<float>(),
                   rows, kHidden, kClasses);
    cuda::most_likely(logits_.as<float>(), parameters + kOutputBiasAt, numbers_.as<std::int32_t>(),
                      rows, kClasses, stream);
  }

  static_assert(kMostRows % cuda::kGroup == 0, "buffers hold whole groups");
  cuda::DeviceArray parameters_ = upload(Mlp::trained());  // laid out as in model.h
  cuda::DeviceArray images_{kMostRows * kPixels * sizeof(float)};
  cuda::DeviceArray hidden_{kMostRows * kHidden * sizeof(float)};
  cuda::DeviceArray logits_{kMostRows * kClasses * sizeof(float)};
  cuda::DeviceArray numbers_{kMostRows * sizeof(std::int32_t)};
  std::vector<std::uint8_t> labels_;
  cuda::Blas blas_;
  GraphCache graphs_{{1, 2, 4, 8, 16, 32, 64, 128, 256}};
};

}  // namespace

std::unique_ptr<Classifier> make_classifier() {
  if (context().device() < 0) return make_host_classifier();
  return std::make_unique<CudaClassifier>();
}

}  // namespace forge::digits
