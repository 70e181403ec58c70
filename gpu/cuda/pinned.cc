#include "gpu/cuda/pinned.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>

namespace forge::gpu::cuda {
namespace {

#ifndef MADV_POPULATE_READ
constexpr int MADV_POPULATE_READ = 22;
constexpr int MADV_POPULATE_WRITE = 23;
#endif

/// cudaHostRegister takes writable pointers to memory that it does not write.
void* writable(HostPiece memory) { return const_cast<std::byte*>(memory.data()); }

/// Maps the pages before they are registered, which is faster than leaving it to the driver. An old
/// kernel cannot; then the driver does.
void prefault(HostPiece memory, bool read_only) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size();
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin,
                  read_only ? MADV_POPULATE_READ : MADV_POPULATE_WRITE);
}

}  // namespace

Result<std::unique_ptr<PinnedRegion>> CudaPinnedRegion::create(std::shared_ptr<Device> device,
                                                               PinTable::Claim claim,
                                                               bool read_only) {
  if (Status status = device->enter(); !status.ok()) return make_error(status);
  if (read_only && !device->info().pins_read_only) {
    return make_error({ErrorCode::not_supported,
                       "pinning: device " + device->info().uuid +
                           " does not take memory that is mapped read-only; map it writable until "
                           "it has been pinned"});
  }
  const unsigned flags = cudaHostRegisterPortable | cudaHostRegisterMapped |
                         (read_only ? cudaHostRegisterReadOnly : 0u);
  // Unregisters what it has when it goes, also half-way.
  std::unique_ptr<CudaPinnedRegion> region(
      new CudaPinnedRegion(std::move(device), std::move(claim)));
  for (HostPiece rest = region->memory(); !rest.empty();) {
    const HostPiece chunk = region->claim().next_chunk(rest);
    prefault(chunk, read_only);
    region->registered_.reserve(region->registered_.size() + 1);
    Status status = region->device_->check(cudaHostRegister(writable(chunk), chunk.size(), flags),
                                           "pinning " + std::to_string(chunk.size()) + " of " +
                                               std::to_string(region->memory().size()) +
                                               " bytes of host memory");
    if (!status.ok()) return make_error(status);
    region->registered_.push_back(chunk);
    rest = rest.subspan(chunk.size());
  }
  return region;
}

CudaPinnedRegion::~CudaPinnedRegion() {
  if (!device_->healthy()) return;
  for (const HostPiece chunk : registered_) {
    (void)device_->check(cudaHostUnregister(writable(chunk)), "unpinning host memory");
  }
}

}  // namespace forge::gpu::cuda
