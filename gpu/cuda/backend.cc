#include "gpu/cuda/backend.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "gpu/backend_module.h"
#include "gpu/cuda/device.h"
#include "gpu/cuda/pinned.h"
#include "gpu/cuda/shared_memory.h"
#include "gpu/cuda/stream.h"
#include "gpu/gather_measure.h"

namespace forge::gpu::cuda {
namespace {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::shared_ptr<cuda::Device> device)
      : device_(std::move(device)), shared_(device_) {}

  /// Chooses how gathers are done from now on.
  Status calibrate() {
    const auto times = measure_gather(*this);
    if (!times) return to_status(times.error());
    device_->set_plan(GatherPlan(*times));
    return {};
  }

  const DeviceInfo& device() const override { return device_->info(); }
  MemoryUse memory() const override { return device_->memory(); }
  bool healthy() const override { return device_->healthy(); }

  Result<std::unique_ptr<Stream>> make_stream() override {
    auto handle = StreamHandle::create(device_);
    if (!handle) return handle.error_ptr();
    return std::make_unique<CudaStream>(std::move(*handle), pins());
  }
  Result<std::unique_ptr<Event>> make_event() override { return CudaEvent::create(device_); }

  Result<std::unique_ptr<Buffer>> allocate_shared(std::size_t bytes) override {
    return shared_.allocate(bytes);
  }
  Result<IpcHandle> export_buffer(const Buffer& buffer) override {
    return shared_.handle_of(buffer);
  }
  Result<std::unique_ptr<Buffer>> import_buffer(const IpcHandle& handle) override {
    return shared_.open(handle);
  }

 private:
  Result<std::unique_ptr<PinnedRegion>> do_pin(PinTable::Claim claim,
                                               const PinOptions& options) override {
    return CudaPinnedRegion::create(device_, std::move(claim), options.read_only);
  }

  std::shared_ptr<cuda::Device> device_;
  SharedMemory shared_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_backend(const std::string& uuid) {
  auto device = Device::open(uuid);
  if (!device) return device.error_ptr();
  auto backend = std::make_unique<CudaBackend>(std::move(*device));
  if (Status status = backend->calibrate(); !status.ok()) return make_error(status);
  return backend;
}

}  // namespace forge::gpu::cuda

extern "C" __attribute__((visibility("default")))
const forge::gpu::BackendModule forge_backend_module{{forge::gpu::kBackendAbi, 0, FORGE_VERSION},
                                                     &forge::gpu::cuda::make_backend};
