// Loops as a user without an engine would write them, over the kernels of the mlp plugin.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "bench/forge_bench/stats.h"
#include "bench/gpu_floor/floor.h"
#include "tools/plugins/cuda/device_array.h"
#include "tools/plugins/cuda/glue.h"
#include "tools/plugins/mlp/cuda_model.h"
#include "tools/plugins/mlp/network.h"

namespace forge::gpu_floor {
namespace {

using bench::now_ns;

void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  cuda::check(cudaMemcpyAsync(to, from, bytes, kind, stream), "copying rows");
}

/// Work captured once and put in again as a whole.
class RawGraph {
 public:
  RawGraph(const RawStream& stream, const std::function<void()>& body) : stream_(stream) {
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
                "capturing a graph");
    body();
    cuda::check(cudaStreamEndCapture(stream.get(), &graph), "capturing a graph");
    cuda::check(cudaGraphInstantiate(&graph_, graph, 0), "making a graph");
    cuda::check(cudaGraphDestroy(graph), "making a graph");
  }
  RawGraph(const RawGraph&) = delete;
  RawGraph& operator=(const RawGraph&) = delete;
  ~RawGraph() { (void)cudaGraphExecDestroy(graph_); }
  void launch() const { cuda::check(cudaGraphLaunch(graph_, stream_.get()), "launching a graph"); }

 private:
  const RawStream& stream_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

nlohmann::json measure_sweep(const SweepShape& shape) {
  const auto backend = open_device();
  const std::size_t bytes = shape.rows * shape.row_bytes;
  const std::size_t count = bytes / sizeof(float);
  constexpr std::size_t kAnswerBytes = mlp::kSwept * sizeof(float);
  const RawStream stream;
  const RawPinned input(bytes);
  const RawPinned output(shape.rows * kAnswerBytes);
  const cuda::DeviceArray values(bytes);
  const cuda::DeviceArray answers(shape.rows * kAnswerBytes);
  const auto synchronize = [&] { stream.synchronize(); };
  const auto copy_in = [&] {
    copy(values.as<void>(), input.data(), bytes, cudaMemcpyHostToDevice, stream.get());
  };
  const auto pass = [&] { cuda::add_one(values.as<float>(), count, stream.get()); };

  const double copy_ns = ns_per(copy_in, synchronize, 16, 9);
  const double pass_ns = ns_per(pass, synchronize, 64, 9);
  const int passes = std::max(1, static_cast<int>(std::lround(copy_ns / pass_ns)));
  // What an actor does: it leaves the rows it was given as they are.
  const cuda::DeviceArray own(bytes);
  const auto compute = [&] {
    copy(own.as<void>(), values.as<void>(), bytes, cudaMemcpyDeviceToDevice, stream.get());
    for (int i = 0; i < passes; ++i) cuda::add_one(own.as<float>(), count, stream.get());
    cuda::check(cudaMemcpy2DAsync(answers.as<void>(), kAnswerBytes, own.as<void>(), shape.row_bytes,
                                  kAnswerBytes, shape.rows, cudaMemcpyDeviceToDevice, stream.get()),
                "copying answers");
  };
  const auto batch = [&] {
    copy_in();
    compute();
    copy(output.data(), answers.as<void>(), shape.rows * kAnswerBytes, cudaMemcpyDeviceToHost,
         stream.get());
  };
  const double compute_ns = ns_per(compute, synchronize, 16, 9);
  const int batches =
      std::max(8, static_cast<int>(shape.seconds * 1e9 / (copy_ns + compute_ns) / 5));
  return {{"passes", passes},
          {"copy_ns", copy_ns},
          {"compute_ns", compute_ns},
          {"loop_ns", ns_per(batch, synchronize, batches, 5)}};
}

nlohmann::json measure_mlp(const MlpLoop& loop) {
  const auto backend = open_device();
  const mlp::Shape shape = mlp::make_shape(loop.width, loop.depth, loop.dtype);
  const RawStream stream;
  mlp::CudaModel model(shape);
  const std::size_t bytes = loop.rows * model.row_bytes();
  const RawPinned input(bytes);
  const RawPinned output(bytes);
  // Finite numbers whatever the dtype: rows as a client would have them.
  std::vector<double> values(loop.rows * shape.width);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i));
  Tensor rows(shape.dtype, {static_cast<std::int64_t>(values.size())});
  mlp::from_doubles(values, rows);

  model.use(stream.get());
  model.forward(loop.rows);  // kernels are loaded before they can be captured
  stream.synchronize();
  const RawGraph graph(stream, [&] { model.forward(loop.rows); });
  const auto batch = [&] {
    std::memcpy(input.data(), rows.bytes().data(), bytes);
    copy(model.input(), input.data(), bytes, cudaMemcpyHostToDevice, stream.get());
    graph.launch();
    copy(output.data(), model.output(), bytes, cudaMemcpyDeviceToHost, stream.get());
    stream.synchronize();
  };
  for (int i = 0; i < 100; ++i) batch();
  bench::Histogram latency;
  const std::int64_t begin = now_ns();
  const auto end = begin + static_cast<std::int64_t>(loop.seconds * 1e9);
  std::int64_t now = begin;
  for (; now < end;) {
    const std::int64_t before = now;
    batch();
    now = now_ns();
    latency.record(now - before);
  }
  const double seconds = static_cast<double>(now - begin) / 1e9;
  return {{"p50_ns", latency.percentile(0.5)},
          {"p99_ns", latency.percentile(0.99)},
          {"rows_per_s", static_cast<double>(latency.count() * loop.rows) / seconds}};
}

}  // namespace forge::gpu_floor
