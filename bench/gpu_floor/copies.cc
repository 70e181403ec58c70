// Copies between host and device: out of memory as workers register it, and as CUDA itself gives it.
#include <sys/mman.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "bench/forge_bench/stats.h"
#include "bench/gpu_floor/floor.h"
#include "shm/segment.h"
#include "tools/plugins/cuda/device_array.h"

namespace forge::gpu_floor {
namespace {

constexpr std::size_t kBytes = std::size_t{256} << 20;
constexpr int kRounds = 15;

/// A segment like the arena of a service with devices, pinned like a worker pins it.
struct Registered {
  explicit Registered(gpu::Backend& backend) {
    auto made = shm::Segment::create({.name = "forge-gpu-floor",
                                      .size = kBytes,
                                      .reserved = kBytes,
                                      .writer = shm::Writer::peer});
    shm::Segment maker = std::move(made).value();
    segment = std::move(shm::Segment::attach(shm::FileDescriptor(::dup(maker.fd())),
                                             shm::Access::read_write))
                  .value();
    fill_randomly(segment.data(), kBytes, 1);
    const bool read_only = backend.device().pins_read_only;
    if (read_only) protect();
    region = std::move(backend.pin({segment.data(), kBytes},
                                   {.read_only = read_only, .file = segment.fd()}))
                 .value();
    if (!read_only) protect();
    how = read_only ? "registered read-only" : "registered writable, then made read-only";
  }

  void protect() const { (void)::mprotect(segment.data(), kBytes, PROT_READ); }
  gpu::HostPiece memory() const { return {segment.data(), kBytes}; }

  shm::Segment segment;
  std::unique_ptr<gpu::PinnedRegion> region;
  const char* how = "";
};

double gbps(double ns) { return static_cast<double>(kBytes) / ns; }

/// The same copy out of two kinds of memory, in turn, so that both meet the same minute.
nlohmann::json compare(const std::function<void()>& registered, const std::function<void()>& pinned,
                       const std::function<void()>& synchronize) {
  std::vector<double> ours;
  std::vector<double> bare;
  for (int i = 0; i < kRounds; ++i) {
    ours.push_back(ns_per(registered, synchronize, 2, 1));
    bare.push_back(ns_per(pinned, synchronize, 2, 1));
  }
  return {{"registered_gbps", gbps(bench::median(std::move(ours)))},
          {"pinned_gbps", gbps(bench::median(std::move(bare)))}};
}

}  // namespace

nlohmann::json measure_copy() {
  const auto backend = open_device();
  const auto stream = std::move(backend->make_stream()).value();
  const auto buffer = std::move(stream->allocate(kBytes)).value();
  const RawPinned pinned(kBytes);
  const Registered arena(*backend);
  // What leaves goes to memory that the worker may write: response memory.
  auto answers =
      std::move(shm::Segment::create(
                    {.name = "forge-gpu-floor-answers", .size = kBytes, .reserved = kBytes}))
          .value();
  fill_randomly(answers.data(), kBytes, 2);
  const auto region = std::move(backend->pin({answers.data(), kBytes})).value();

  auto* const raw = static_cast<cudaStream_t>(stream->native());
  const auto synchronize = [&] { expect(stream->synchronize()); };
  const auto copy = [&](void* to, const void* from, cudaMemcpyKind kind) {
    cuda::check(cudaMemcpyAsync(to, from, kBytes, kind, raw), "copying");
  };
  auto* const device = buffer->device_data();
  nlohmann::json report;
  report["how"] = arena.how;
  report["in"] = compare([&] { expect(stream->copy_in(*buffer, 0, arena.memory())); },
                         [&] { copy(device, pinned.data(), cudaMemcpyHostToDevice); }, synchronize);
  report["out"] = compare(
      [&] {
        expect(stream->copy_out({answers.data(), kBytes}, *buffer, 0));
      },
      [&] { copy(pinned.data(), device, cudaMemcpyDeviceToHost); }, synchronize);
  return report;
}

nlohmann::json measure_gather() {
  constexpr std::size_t kRows = 64;
  constexpr std::size_t kRowBytes = 4096;
  constexpr std::size_t kStride = std::size_t{1} << 20;  // rows that do not adjoin
  const auto backend = open_device();
  const auto stream = std::move(backend->make_stream()).value();
  const auto buffer = std::move(stream->allocate(kRows * kRowBytes)).value();
  const Registered arena(*backend);
  std::vector<gpu::HostPiece> rows;
  for (std::size_t i = 0; i < kRows; ++i) {
    rows.push_back(arena.memory().subspan(i * kStride, kRowBytes));
  }
  constexpr std::array kPaths = {std::pair{"chosen_ns", gpu::GatherPath::chosen},
                                 std::pair{"copies_ns", gpu::GatherPath::copies},
                                 std::pair{"batched_ns", gpu::GatherPath::batched},
                                 std::pair{"kernel_ns", gpu::GatherPath::kernel}};
  std::array<std::vector<double>, kPaths.size()> times;
  const auto synchronize = [&] { expect(stream->synchronize()); };
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t path = 0; path < kPaths.size(); ++path) {
      const auto gather = [&] { expect(stream->gather(*buffer, 0, rows, kPaths[path].second)); };
      times[path].push_back(ns_per(gather, synchronize, 8, 1));
    }
  }
  nlohmann::json report;
  for (std::size_t path = 0; path < kPaths.size(); ++path)
    report[kPaths[path].first] = bench::median(std::move(times[path]));
  return report;
}

}  // namespace forge::gpu_floor
