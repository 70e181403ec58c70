// forge-gpu-floor: what the card does without the engine, for forge-bench to compare with. Prints one
// JSON object.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <vector>

#include "bench/forge_bench/stats.h"
#include "bench/gpu_floor/floor.h"
#include "gpu/backend_loader.h"
#include "gpu/devices.h"
#include "tools/plugins/cuda/device_array.h"

namespace forge::gpu_floor {

std::unique_ptr<gpu::Backend> open_device() {
  const auto devices = gpu::visible_devices(gpu::list_devices());
  if (devices.empty()) throw std::runtime_error("the driver lists no device that may be used");
  // As the controller does for a worker. No thread runs yet.
  const std::string& uuid = devices.front().uuid;
  ::setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);     // NOLINT(concurrency-mt-unsafe)
  ::setenv("CUDA_VISIBLE_DEVICES", uuid.c_str(), 1);  // NOLINT(concurrency-mt-unsafe)
  ::setenv(gpu::kDeviceVariable, uuid.c_str(), 1);    // NOLINT(concurrency-mt-unsafe)
  return std::move(gpu::make_backend(gpu::BackendSpec::from_environment())).value();
}

void expect(const Status& status) {
  if (!status.ok()) throw_status(status);
}

RawStream::RawStream() {
  cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
}
RawStream::~RawStream() { (void)cudaStreamDestroy(stream_); }
void RawStream::synchronize() const {
  cuda::check(cudaStreamSynchronize(stream_), "waiting for a stream");
}

RawPinned::RawPinned(std::size_t bytes) {
  void* data = nullptr;
  cuda::check(cudaMallocHost(&data, bytes), "taking page-locked memory");
  data_ = static_cast<std::byte*>(data);
  fill_randomly(data_, bytes, bytes);
}
RawPinned::~RawPinned() { (void)cudaFreeHost(data_); }

void fill_randomly(std::byte* data, std::size_t bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::size_t at = 0; at < bytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::copy_n(reinterpret_cast<const std::byte*>(&word), std::min(sizeof(word), bytes - at),
                data + at);
  }
}

double ns_per(const std::function<void()>& submit, const std::function<void()>& synchronize,
              int batch, int rounds) {
  std::vector<double> times;
  for (int round = -1; round < rounds; ++round) {
    synchronize();
    const std::int64_t begin = bench::now_ns();
    for (int i = 0; i < batch; ++i) submit();
    synchronize();
    // The first round is for what is only done once.
    if (round >= 0) times.push_back(static_cast<double>(bench::now_ns() - begin) / batch);
  }
  return bench::median(std::move(times));
}

nlohmann::json memory_in_use() {
  const auto backend = open_device();
  std::size_t free = 0;
  std::size_t total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "asking for the device's memory");
  // What this process itself takes is in both figures that are compared.
  return {{"used", total - free}, {"total", total}};
}

namespace {

int run(int argc, char** argv) {
  CLI::App app{"What the card does without the engine; prints JSON.", "forge-gpu-floor"};
  app.require_subcommand(1);
  SweepShape sweep;
  MlpLoop loop;
  std::size_t mib = 4096;
  std::string handle;
  nlohmann::json report;
  const auto command = [&](const char* name, const char* help, auto measure) {
    auto* const sub = app.add_subcommand(name, help);
    sub->callback([&report, measure] { report = measure(); });
    return sub;
  };
  command("copy", "Registered memory against cudaMallocHost", [] { return measure_copy(); });
  command("gather", "64 rows of 4 KiB, each way there is", [] { return measure_gather(); });
  command("memory", "Device memory in use, by all", [] { return memory_in_use(); });
  auto* const sweeping = command("sweep", "Batches to the card, through it and back",
                                 [&] { return measure_sweep(sweep); });
  sweeping->add_option("--rows", sweep.rows, "Of a batch");
  sweeping->add_option("--row-bytes", sweep.row_bytes, "Of a row");
  sweeping->add_option("--seconds", sweep.seconds, "Measured");
  auto* const looping = command("mlp", "A model in a loop", [&] { return measure_mlp(loop); });
  looping->add_option("--width", loop.width, "Of a layer");
  looping->add_option("--depth", loop.depth, "Layers");
  looping->add_option("--dtype", loop.dtype, "f32 or bf16");
  looping->add_option("--rows", loop.rows, "Of a batch")->check(CLI::Range(1, 256));
  looping->add_option("--seconds", loop.seconds, "Measured");
  auto* const sharing =
      command("ipc", "A buffer of another process", [&] { return measure_sharing(mib << 20); });
  sharing->add_option("--mib", mib, "Of the buffer");
  auto* const opening =
      command("opener", "The other process of ipc", [&] { return open_shared(handle); });
  opening->add_option("handle", handle, "In hexadecimal")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  std::puts(report.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace forge::gpu_floor

int main(int argc, char** argv) {
  try {
    return forge::gpu_floor::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "forge-gpu-floor: %s\n", error.what());
    return 1;
  }
}
