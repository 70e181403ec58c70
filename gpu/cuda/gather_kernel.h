// The kernel that gathers pinned host memory by reading it where it lies.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace forge::gpu::cuda {

/// As many as go to a kernel by value: 4 KiB is what every device takes.
inline constexpr int kGatherPieces = 128;

struct GatherPieces {
  const std::byte* from[kGatherPieces];    ///< where the device reads them
  std::uint64_t begin[kGatherPieces + 1];  ///< where they go, behind `to`; the last is the end
};
static_assert(sizeof(GatherPieces) <= 4000);

/// Loads the kernel, which else happens at its first launch. Fails if there is no code for the
/// device.
cudaError_t prepare_gather_kernel();

/// Puts the copy of the first `count` pieces into the stream. The list may go when this returns.
cudaError_t launch_gather_kernel(const GatherPieces& pieces, int count, std::byte* to,
                                 cudaStream_t stream);

}  // namespace forge::gpu::cuda
