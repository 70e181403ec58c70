// Host memory registered with a CUDA device.
#pragma once

#include <forge/result.h>

#include <memory>
#include <vector>

#include "gpu/backend.h"
#include "gpu/cuda/device.h"

namespace forge::gpu::cuda {

class CudaPinnedRegion final : public PinnedRegion {
 public:
  /// Registers all chunks or none.
  static Result<std::unique_ptr<PinnedRegion>> create(std::shared_ptr<Device> device,
                                                      PinTable::Claim claim, bool read_only);
  ~CudaPinnedRegion() override;

 private:
  CudaPinnedRegion(std::shared_ptr<Device> device, PinTable::Claim claim)
      : PinnedRegion(std::move(claim)), device_(std::move(device)) {}

  std::shared_ptr<Device> device_;
  std::vector<HostPiece> registered_;
};

}  // namespace forge::gpu::cuda
