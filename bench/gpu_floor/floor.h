// What forge-gpu-floor measures. Each function gives the object that its command prints.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "gpu/backend.h"

namespace forge::gpu_floor {

/// The backend as a worker with the first device has it. Before any other CUDA call.
std::unique_ptr<gpu::Backend> open_device();

/// Throws the error, if it is one.
void expect(const Status& status);

/// A stream of the runtime itself; destroyed with the object.
class RawStream {
 public:
  RawStream();
  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;
  ~RawStream();
  cudaStream_t get() const { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// Page-locked memory as cudaMallocHost gives it, filled with random bytes.
class RawPinned {
 public:
  explicit RawPinned(std::size_t bytes);
  RawPinned(const RawPinned&) = delete;
  RawPinned& operator=(const RawPinned&) = delete;
  ~RawPinned();
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

void fill_randomly(std::byte* data, std::size_t bytes, std::uint64_t seed);

/// ns of one of `batch` pieces of work that `submit` puts into the stream, the middle of several
/// such rounds, warm.
double ns_per(const std::function<void()>& submit, const std::function<void()>& synchronize,
              int batch, int rounds);

nlohmann::json measure_copy();
nlohmann::json measure_gather();

struct SweepShape {
  std::size_t rows = 64;
  std::size_t row_bytes = std::size_t{256} << 10;
  double seconds = 1;
};
nlohmann::json measure_sweep(const SweepShape& shape);

struct MlpLoop {
  std::int64_t width = 1024;
  std::int64_t depth = 4;
  std::string dtype = "f32";
  std::size_t rows = 1;
  double seconds = 1;
};
nlohmann::json measure_mlp(const MlpLoop& loop);

/// Two processes and one buffer: this one owns it, the other is this program again.
nlohmann::json measure_sharing(std::size_t bytes);
/// The other one: opens what `handle`, in hexadecimal, names.
nlohmann::json open_shared(const std::string& handle);

nlohmann::json memory_in_use();

}  // namespace forge::gpu_floor
