#include "gpu/cuda/device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <utility>

#include "gpu/cuda/gather_kernel.h"
#include "gpu/cuda_error.h"
#include "shm/file_descriptor.h"

namespace forge::gpu::cuda {
namespace {

/// The oldest compute capability that forge's kernels are built for.
constexpr int kOldestMajor = 8;

/// As nvidia-smi writes it: "GPU-8-4-4-4-12" hexadecimal digits.
std::string text_of(const cudaUUID_t& uuid) {
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x",
                  static_cast<unsigned>(static_cast<unsigned char>(uuid.bytes[i])));
    text += digits;
  }
  return text;
}

}  // namespace

Result<std::shared_ptr<Device>> Device::open(const std::string& uuid) {
  std::shared_ptr<Device> device(new Device("device " + uuid));
  if (Status status = device->start(uuid); !status.ok()) return make_error(status);
  return device;
}

Status Device::start(const std::string& uuid) {
  int count = 0;
  if (Status status = count_devices(count); !status.ok()) return status;
  if (Status status = find(uuid, count); !status.ok()) return status;
  // Opens it: takes the few hundred megabytes that every process costs there.
  if (Status status = check(cudaSetDevice(info_.ordinal), "opening it"); !status.ok()) {
    return status;
  }
  if (Status status = check(cudaFree(nullptr), "opening it"); !status.ok()) return status;
  return examine();
}

Status Device::count_devices(int& count) {
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
    // Any driver of the runtime's major version will do.
    return driver_status(driver, CUDART_VERSION / 1000 * 1000, what_);
  }
  return check(counted == cudaSuccess && count == 0 ? cudaErrorNoDevice : counted,
               "looking for devices");
}

/// Fills info_ with what needs no context. Devices are compared by UUID, whatever this process sees
/// of them and in which order; those of other kinds ("MIG-…") are taken to be the only one seen.
Status Device::find(const std::string& uuid, int count) {
  const bool named = uuid.starts_with("GPU-");
  std::string seen;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties{};
    if (Status status = check(cudaGetDeviceProperties(&properties, ordinal), "reading its kind");
        !status.ok()) {
      return status;
    }
    const std::string text = text_of(properties.uuid);
    seen += (seen.empty() ? "" : ", ") + text;
    if (named ? text != uuid : count != 1) continue;
    info_ = {.ordinal = ordinal,
             .name = properties.name,
             .uuid = uuid,
             .major = properties.major,
             .minor = properties.minor,
             .memory = properties.totalGlobalMem};
    return {};
  }
  return {ErrorCode::unavailable, what_ + ": this process does not see it; it sees " + seen +
                                      "; check CUDA_VISIBLE_DEVICES"};
}

Status Device::examine() {
  if (info_.major < kOldestMajor) {
    return {ErrorCode::not_supported,
            what_ + ": " + info_.name + " is too old: its compute capability is " +
                std::to_string(info_.major) + "." + std::to_string(info_.minor) + ", forge needs " +
                std::to_string(kOldestMajor) + ".0 or newer; use another device"};
  }
  int pools = 0;
  int registers = 0;
  int same_address = 0;
  int read_only = 0;
  for (const auto& [which, value] :
       {std::pair(cudaDevAttrMemoryPoolsSupported, &pools),
        std::pair(cudaDevAttrHostRegisterSupported, &registers),
        std::pair(cudaDevAttrCanUseHostPointerForRegisteredMem, &same_address),
        std::pair(cudaDevAttrHostRegisterReadOnlySupported, &read_only)}) {
    if (Status status = attribute(which, *value); !status.ok()) return status;
  }
  if (pools == 0 || registers == 0) {
    return {ErrorCode::not_supported,
            what_ + ": " + info_.name + (pools == 0 ? " has no memory pools" : " pins no memory") +
                ", which forge needs; use another device, or a driver that gives it"};
  }
  // Also shows whether there is code for this architecture.
  if (Status status = check(prepare_gather_kernel(), "loading forge's kernels"); !status.ok()) {
    return status;
  }
  reads_pinned_ = same_address != 0;
  info_.pins_read_only = read_only != 0 && registers_read_only();
  if (Status status = check(cudaDeviceGetDefaultMemPool(&pool_, info_.ordinal), "its memory pool");
      !status.ok()) {
    return status;
  }
  // What was freed stays with us: taking it from the driver again would stop the device.
  std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
  return check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep),
               "its memory pool");
}

Status Device::attribute(cudaDeviceAttr attribute, int& value) {
  return check(cudaDeviceGetAttribute(&value, attribute, info_.ordinal), "reading its kind");
}

/// Tried on a page like those of an arena, sealed against being mapped writable: the device saying
/// that it can is not enough.
bool Device::registers_read_only() {
  const auto size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const shm::FileDescriptor file(::memfd_create("forge:trial", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file || ::ftruncate(file.get(), static_cast<off_t>(size)) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE) != 0) {
    return false;
  }
  void* const page = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (page == MAP_FAILED) return false;
  const bool taken =
      check(cudaHostRegister(page, size, cudaHostRegisterPortable | cudaHostRegisterReadOnly),
            "pinning read-only memory")
          .ok();
  if (taken) check(cudaHostUnregister(page), "unpinning").ok();
  ::munmap(page, size);
  return taken;
}

Status Device::enter() {
  if (!lost_.ok()) return lost_;
  return check(cudaSetDevice(info_.ordinal), "using it");
}

Status Device::check(cudaError_t result, std::string_view what) {
  if (result == cudaSuccess) return {};
  cudaGetLastError();
  Status status = cuda_status(static_cast<int>(result), what_ + ", " + std::string(what),
                              cudaGetErrorString(result));
  if (ends_the_process(static_cast<int>(result)) && lost_.ok()) lost_ = status;
  return status;
}

MemoryUse Device::memory() const {
  std::uint64_t used = 0;
  std::uint64_t reserved = 0;
  if (cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used) != cudaSuccess ||
      cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved) != cudaSuccess) {
    cudaGetLastError();
  }
  return {.used = used + shared_bytes_,
          .pooled = reserved - std::min(used, reserved),
          .total = info_.memory};
}

Status Device::short_of(std::size_t bytes) const {
  std::size_t free = 0;
  std::size_t total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) cudaGetLastError();
  const MemoryUse use = memory();
  return {ErrorCode::unavailable,
          what_ + ": a buffer of " + std::to_string(bytes) +
              " bytes does not fit; the device has " + std::to_string(use.total) + ", of which " +
              std::to_string(free) + " are free; this process has " + std::to_string(use.used) +
              " in buffers and keeps " + std::to_string(use.pooled) +
              "; use smaller batches, fewer workers on this device, or another device"};
}

}  // namespace forge::gpu::cuda
