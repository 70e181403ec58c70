// libdigits_cuda.so: the actor of digits.cc on the worker's device; on the host where it has none.
#include <cuda_runtime_api.h>
#include <forge/device.h>
#include <forge/plugin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/plugins/cuda/dense.h"
#include "tools/plugins/cuda/device_array.h"
#include "tools/plugins/cuda/glue.h"
#include "tools/plugins/digits/model.h"
#include "tools/plugins/digits/serving.h"

namespace forge::digits {
namespace {

cudaStream_t call_stream() { return static_cast<cudaStream_t>(context().stream()); }

/// The committed model in device memory. Its buffers stay where they are, as graphs need it.
class CudaMlp {
 public:
  static constexpr std::size_t kMostRows = 256;  // the largest batch forge makes

  explicit CudaMlp(const Mlp& model) : parameters_(upload(model)) {
    // Kernels are loaded when they are first launched: now, so that the first call need not wait.
    blas_.use(call_stream());
    forward(kMostRows);
    cuda::check(cudaStreamSynchronize(call_stream()), "running the model for the first time");
  }

  /// The label of each of `rows` images on the device, as i32 there.
  Tensor classify(const float* images, std::size_t rows) {
    cudaStream_t const stream = call_stream();
    blas_.use(stream);
    copy(images_.as<void>(), images, rows * kPixels * sizeof(float), stream);
    graphs_.run(rows, [this](std::size_t bucket) { forward(bucket); });
    Tensor labels = context().allocate_device(DType::i32, {static_cast<std::int64_t>(rows)});
    copy(labels.device_data<std::int32_t>(), labels_.as<void>(), rows * sizeof(std::int32_t),
         stream);
    return labels;
  }

 private:
  static cuda::DeviceArray upload(const Mlp& model) {
    const std::span<const float> all = model.parameters();
    return cuda::DeviceArray::of(std::vector<float>(all.begin(), all.end()));
  }
  static void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
    cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream),
                "copying rows on the device");
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
    cuda::most_likely(logits_.as<float>(), parameters + kOutputBiasAt, labels_.as<std::int32_t>(),
                      rows, kClasses, stream);
  }

  static_assert(kMostRows % cuda::kGroup == 0, "buffers hold whole groups");
  cuda::DeviceArray parameters_;  // laid out as in model.h
  cuda::DeviceArray images_{kMostRows * kPixels * sizeof(float)};
  cuda::DeviceArray hidden_{kMostRows * kHidden * sizeof(float)};
  cuda::DeviceArray logits_{kMostRows * kClasses * sizeof(float)};
  cuda::DeviceArray labels_{kMostRows * sizeof(std::int32_t)};
  cuda::Blas blas_;
  GraphCache graphs_{{1, 2, 4, 8, 16, 32, 64, 128, 256}};
};

/// The same endpoints as on the host, and the same answers.
class Digits : public ForgeActor {
 public:
  void setup() override {
    model_ = Mlp::trained();
    if (context().device() >= 0) device_ = std::make_unique<CudaMlp>(*model_);
  }

  std::vector<Result<int>> classify(const std::vector<std::vector<float>>& images) {
    const auto fitting = static_cast<std::int64_t>(std::ranges::count_if(
        images, [](const std::vector<float>& image) { return image.size() == kPixels; }));
    Tensor pixels(DType::f32, {fitting, static_cast<std::int64_t>(kPixels)});
    auto to = pixels.span<float>().begin();
    for (const std::vector<float>& image : images) {
      if (image.size() == kPixels) to = std::ranges::copy(image, to).out;
    }
    const std::vector<int> labels = label(pixels);
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

  std::vector<int> classify_tensor(const Tensor& images) {
    const auto count = static_cast<std::size_t>(images.shape().front());
    if (images.size() != count * kPixels || images.dtype() != DType::f32) {
      throw InvalidArgument(bad_size(images.size() / count));
    }
    return label(images);
  }

 private:
  std::vector<int> label(const Tensor& images) {
    const std::size_t count = images.size() / kPixels;
    if (count == 0) return {};
    if (!device_) {
      std::vector<std::uint8_t> labels(count);
      model_->classify(images.span<float>(), labels);
      return {labels.begin(), labels.end()};
    }
    const Tensor there = images.device() < 0 ? context().to_device(images) : images;
    const Tensor labels = context().to_host(device_->classify(there.device_data<float>(), count));
    const auto numbers = labels.span<std::int32_t>();
    return {numbers.begin(), numbers.end()};
  }

  static std::string bad_size(std::size_t pixels) {
    return "an image of " + std::to_string(pixels) + " pixels; send " + std::to_string(kPixels) +
           " of them as f32, row by row, 0 to 16";
  }

  std::optional<Mlp> model_;         // set by setup()
  std::unique_ptr<CudaMlp> device_;  // likewise, in a worker that has one
};

}  // namespace
}  // namespace forge::digits

FORGE_PLUGIN(m) {
  using namespace forge::digits;
  m.actor<Digits>("Digits", "Tells which digit an image of 8x8 pixels shows.")
      .batched_endpoint("classify", &Digits::classify, serving())
      .batched_endpoint("classify_tensor", &Digits::classify_tensor, serving());
}
