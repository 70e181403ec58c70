// libmlp_cuda.so: the same actors on the worker's device; on the host where it has none.
#include <cuda_runtime_api.h>
#include <forge/actor.h>
#include <forge/device.h>
#include <forge/error.h>
#include <time.h>

#include <string>

#include "tools/plugins/cuda/glue.h"
#include "tools/plugins/mlp/cuda_model.h"
#include "tools/plugins/mlp/network.h"

namespace forge::mlp {
namespace {

cudaStream_t call_stream() { return static_cast<cudaStream_t>(context().stream()); }

double thread_cpu_ns() {
  timespec used{};
  (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) * 1e9 + static_cast<double>(used.tv_nsec);
}

class CudaNetwork : public Network {
 public:
  explicit CudaNetwork(const Shape& shape) : model_(shape) {
    // Kernels are loaded when they are first launched: now, so that the first call need not wait.
    model_.use(call_stream());
    model_.forward(kMostRows);
    cuda::check(cudaStreamSynchronize(call_stream()), "running the model for the first time");
  }

  Tensor run(const Tensor& x) override {
    const auto rows = static_cast<std::size_t>(x.shape()[0]);
    const std::size_t bytes = rows * model_.row_bytes();
    cudaStream_t const stream = call_stream();
    model_.use(stream);
    cuda::copy(model_.input(), x.device_data<std::byte>(), bytes, stream);
    if (poisoned_) model_.poison();
    graphs_.run(rows, [&](std::size_t bucket) { model_.forward(bucket); });
    // The next batch may be computed while this one's answers still leave.
    Tensor answer = context().allocate_device(x.dtype(), x.shape());
    if (poisoned_) {
      cuda::check(cudaMemsetAsync(answer.device_data<std::byte>(), 0xFF, bytes, stream),
                  "poisoning an answer");
    }
    cuda::copy(answer.device_data<std::byte>(), model_.output(), bytes, stream);
    return answer;
  }

  double submission_ns(std::size_t rows, int repeats, bool graph) override {
    constexpr int kUnderWay = 16;  // few enough that putting in never waits for room
    cudaStream_t const stream = call_stream();
    model_.use(stream);
    const auto forward = [&](std::size_t bucket) { model_.forward(bucket); };
    const auto submit = [&] { graph ? graphs_.run(rows, forward) : forward(rows); };
    submit();  // captured, if it was not yet
    double spent = 0;
    for (int done = 0; done < repeats; ++done) {
      if (done % kUnderWay == 0) cuda::check(cudaStreamSynchronize(stream), "waiting for batches");
      const double before = thread_cpu_ns();
      submit();
      spent += thread_cpu_ns() - before;
    }
    cuda::check(cudaStreamSynchronize(stream), "waiting for batches");
    return spent / repeats;
  }

  Tensor write_wildly() override {
    Tensor answer = context().allocate_device(DType::f32, {1});
    cuda::write_wildly(call_stream());
    return answer;
  }

 private:
  CudaModel model_;
  GraphCache graphs_{{1, 2, 4, 8, 16, 32, 64, 128, 256}};
};

class CudaSweeper : public Sweeper {
 public:
  Tensor sweep(const Tensor& x, int passes) override {
    const auto rows = static_cast<std::size_t>(x.shape()[0]);
    const auto width = static_cast<std::size_t>(x.shape()[1]);
    cudaStream_t const stream = call_stream();
    Tensor values = context().allocate_device(DType::f32, x.shape());
    auto* const data = values.device_data<float>();
    cuda::copy(data, x.device_data<float>(), x.byte_count(), stream);
    for (int pass = 0; pass < passes; ++pass) cuda::add_one(data, x.size(), stream);
    Tensor answer = context().allocate_device(DType::f32, {x.shape()[0], kSwept});
    constexpr std::size_t kBytes = kSwept * sizeof(float);
    cuda::check(cudaMemcpy2DAsync(answer.device_data<float>(), kBytes, data, width * sizeof(float),
                                  kBytes, rows, cudaMemcpyDeviceToDevice, stream),
                "copying answers on the device");
    return answer;
  }
};

}  // namespace

std::unique_ptr<Network> make_network(const Shape& shape) {
  if (context().device() < 0) return make_host_network(shape);
  return std::make_unique<CudaNetwork>(shape);
}

std::unique_ptr<Sweeper> make_sweeper() {
  if (context().device() < 0) return make_host_sweeper();
  return std::make_unique<CudaSweeper>();
}

}  // namespace forge::mlp
