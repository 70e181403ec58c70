// One CUDA device as this process has it: how it was opened, whether it is still usable, and what
// its errors are. All objects of a backend share it.
#pragma once

#include <cuda_runtime_api.h>
#include <forge/error.h>
#include <forge/result.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "gpu/backend.h"
#include "gpu/gather_plan.h"

namespace forge::gpu::cuda {

class Device {
 public:
  /// Errors are those of make_backend(). On failure this process keeps nothing of the device but
  /// what the driver keeps for it.
  static Result<std::shared_ptr<Device>> open(const std::string& uuid);

  const DeviceInfo& info() const { return info_; }
  cudaMemPool_t pool() const { return pool_; }
  MemoryUse memory() const;
  bool healthy() const { return lost_.ok(); }

  /// Before a call that is meant for the device of the calling thread: makes it ours. An error if
  /// the device is lost.
  Status enter();
  /// The status of a CUDA call that was to do `what`. A failed call leaves an error behind that
  /// later calls of others would take for theirs; it is cleared. One that ends the process is kept.
  Status check(cudaError_t result, std::string_view what);
  /// That a buffer does not fit, with byte counts.
  Status short_of(std::size_t bytes) const;

  /// The device reads pinned memory at its own address.
  bool reads_pinned() const { return reads_pinned_; }

  const GatherPlan& plan() const { return plan_; }
  void set_plan(const GatherPlan& plan) { plan_ = plan; }

  void count_shared(std::size_t bytes) { shared_bytes_ += bytes; }
  void discount_shared(std::size_t bytes) { shared_bytes_ -= bytes; }

 private:
  explicit Device(std::string what) : what_(std::move(what)) {}

  Status start(const std::string& uuid);
  Status count_devices(int& count);
  Status find(const std::string& uuid, int count);
  Status examine();
  Status attribute(cudaDeviceAttr attribute, int& value);
  bool registers_read_only();

  std::string what_;  // "device GPU-…", as errors name it
  DeviceInfo info_;
  cudaMemPool_t pool_ = nullptr;  // the device's default, which lives as long as the process
  bool reads_pinned_ = false;
  GatherPlan plan_;
  std::size_t shared_bytes_ = 0;
  Status lost_;
};

}  // namespace forge::gpu::cuda
