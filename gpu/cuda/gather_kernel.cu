#include <algorithm>

#include "gpu/cuda/gather_kernel.h"

namespace forge::gpu::cuda {
namespace {

constexpr unsigned kThreads = 256;
/// Blocks for one piece. More than the bus needs to be full would keep other work off the device.
constexpr std::uint64_t kMostBlocks = 32;

template <class Word>
__device__ void copy_as(std::byte* to, const std::byte* from, std::uint64_t size) {
  const std::uint64_t words = size / sizeof(Word);
  const std::uint64_t first = std::uint64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::uint64_t step = std::uint64_t{gridDim.x} * kThreads;
  for (std::uint64_t i = first; i < words; i += step) {
    reinterpret_cast<Word*>(to)[i] = reinterpret_cast<const Word*>(from)[i];
  }
  for (std::uint64_t i = words * sizeof(Word) + first; i < size; i += step) to[i] = from[i];
}

/// One row of blocks for each piece.
__global__ void __launch_bounds__(kThreads)
    gather(const __grid_constant__ GatherPieces pieces, std::byte* to) {
  const unsigned piece = blockIdx.y;
  const std::byte* const from = pieces.from[piece];
  std::byte* const out = to + pieces.begin[piece];
  const std::uint64_t size = pieces.begin[piece + 1] - pieces.begin[piece];
  const auto alignment =
      reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(out);
  if (alignment % sizeof(uint4) == 0) {
    copy_as<uint4>(out, from, size);
  } else if (alignment % sizeof(unsigned) == 0) {
    copy_as<unsigned>(out, from, size);
  } else {
    copy_as<unsigned char>(out, from, size);
  }
}

}  // namespace

cudaError_t prepare_gather_kernel() {
  cudaFuncAttributes ignored;
  return cudaFuncGetAttributes(&ignored, gather);
}

cudaError_t launch_gather_kernel(const GatherPieces& pieces, int count, std::byte* to,
                                 cudaStream_t stream) {
  std::uint64_t largest = 0;
  for (int i = 0; i < count; ++i) {
    largest = std::max(largest, pieces.begin[i + 1] - pieces.begin[i]);
  }
  constexpr std::uint64_t kBlockBytes = kThreads * sizeof(uint4);
  const std::uint64_t blocks =
      std::clamp<std::uint64_t>((largest + kBlockBytes - 1) / kBlockBytes, 1, kMostBlocks);
  // Not <<<>>>, whose errors are mixed up with those that others have left behind.
  void* arguments[] = {const_cast<GatherPieces*>(&pieces), &to};
  return cudaLaunchKernel(gather, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(count)),
                          dim3(kThreads), arguments, 0, stream);
}

}  // namespace forge::gpu::cuda
