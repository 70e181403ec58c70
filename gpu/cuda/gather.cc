// The paths of a gather on a CUDA device.
#include <algorithm>
#include <string>

#include "gpu/cuda/gather_kernel.h"
#include "gpu/cuda/stream.h"

namespace forge::gpu::cuda {
namespace {

#if CUDART_VERSION >= 12080
cudaError_t copy_batch(void** to, const void** from, std::size_t* sizes, std::size_t count,
                       cudaStream_t stream) {
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  std::size_t first = 0;
#if CUDART_VERSION >= 13000
  return ::cudaMemcpyBatchAsync(to, from, sizes, count, &attributes, &first, 1, stream);
#else
  std::size_t failed = 0;
  return ::cudaMemcpyBatchAsync(to, const_cast<void**>(from), sizes, count, &attributes, &first, 1,
                                &failed, stream);
#endif
}
#else
cudaError_t copy_batch(void**, const void**, std::size_t*, std::size_t, cudaStream_t) {
  return cudaErrorNotSupported;
}
#endif

}  // namespace

/// The path to take: what was asked for or is best, if it is possible here.
GatherPath CudaStream::path_for(std::span<const HostPiece> pieces, GatherPath asked) const {
  GatherShape shape{.pieces = pieces.size(), .bytes = 0, .capturing = capturing()};
  bool pinned = true;
  for (const HostPiece piece : pieces) {
    shape.bytes += piece.size();
    pinned = pinned && pins_->covers(piece);
  }
  shape.mapped = pinned && device_.reads_pinned();
  // A batch takes no memory that is not pinned, lest it waits for it.
  if (!pinned) return GatherPath::copies;
  if (asked == GatherPath::chosen) return device_.plan().choose(shape);
  if (asked == GatherPath::kernel && !shape.mapped) return GatherPath::copies;
  if (asked == GatherPath::batched && shape.capturing) return GatherPath::copies;
  return asked;
}

Status CudaStream::do_gather(std::byte* to, std::span<const HostPiece> pieces, GatherPath path) {
  path = path_for(pieces, path);
  if (path == GatherPath::batched) return gather_batched(to, pieces);
  if (path == GatherPath::kernel) return gather_by_kernel(to, pieces);
  for (const HostPiece piece : pieces) {
    if (Status status = do_copy_in(to, piece); !status.ok()) return status;
    to += piece.size();
  }
  return {};
}

Status CudaStream::gather_batched(std::byte* to, std::span<const HostPiece> pieces) {
  if (Status status = device_.enter(); !status.ok()) return status;
  to_.clear();
  from_.clear();
  sizes_.clear();
  for (HostPiece piece : pieces) {
    while (!piece.empty()) {
      const HostPiece run = pins_->first_run(piece);
      to_.push_back(to);
      from_.push_back(run.data());
      sizes_.push_back(run.size());
      to += run.size();
      piece = piece.subspan(run.size());
    }
  }
  return device_.check(
      copy_batch(to_.data(), from_.data(), sizes_.data(), sizes_.size(), handle_->get()),
      "copying a batch to it");
}

Status CudaStream::gather_by_kernel(std::byte* to, std::span<const HostPiece> pieces) {
  if (Status status = device_.enter(); !status.ok()) return status;
  while (!pieces.empty()) {
    const std::size_t count = std::min<std::size_t>(pieces.size(), kGatherPieces);
    GatherPieces list;
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < count; ++i) {
      list.from[i] = pieces[i].data();
      list.begin[i] = end;
      end += pieces[i].size();
    }
    list.begin[count] = end;
    Status status = device_.check(
        launch_gather_kernel(list, static_cast<int>(count), to, handle_->get()), "gathering on it");
    if (!status.ok()) return status;
    to += end;
    pieces = pieces.subspan(count);
  }
  return {};
}

}  // namespace forge::gpu::cuda
