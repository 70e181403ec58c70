#include "gpu/cuda_error.h"

#include <algorithm>
#include <array>
#include <string>

namespace forge::gpu {
namespace {

struct Meaning {
  int first;
  int last;
  ErrorCode code;
  std::string_view remedy;
};

constexpr std::array kMeanings{
    Meaning{2, 2, ErrorCode::unavailable,
            "free device memory: smaller batches, fewer workers on this device, or another device"},
    Meaning{3, 3, ErrorCode::unavailable,
            "look at what nvidia-smi and the kernel's log (Xid) say about the device"},
    Meaning{34, 34, ErrorCode::not_supported,
            "libcuda.so.1 is the toolkit's stub; take its stubs folder out of LD_LIBRARY_PATH"},
    Meaning{35, 36, ErrorCode::not_supported,
            "the driver is missing or too old; install a newer one"},
    Meaning{46, 46, ErrorCode::unavailable,
            "the device is busy: another process has it to itself; end that process, or set the "
            "compute mode to DEFAULT with nvidia-smi -c 0"},
    Meaning{100, 101, ErrorCode::unavailable,
            "this process sees no such device; check CUDA_VISIBLE_DEVICES, nvidia-smi -L and the "
            "access to /dev/nvidia*"},
    Meaning{209, 209, ErrorCode::not_supported,
            "the device's architecture is not one that forge was built for (sm_80 and newer)"},
    Meaning{222, 222, ErrorCode::not_supported,
            "the driver is older than the toolkit that forge was built with; install a newer one"},
    Meaning{304, 304, ErrorCode::unavailable,
            "the system refused; check the access to /dev/nvidia* and the limits of this process"},
    Meaning{712, 713, ErrorCode::invalid_argument,
            "pages can be pinned once; regions must not share any"},
    Meaning{800, 801, ErrorCode::not_supported, "the device or the system does not allow it"},
    Meaning{802, 802, ErrorCode::unavailable,
            "the system is not ready; check that nvidia-fabricmanager runs, where there are "
            "NVSwitches"},
    Meaning{803, 804, ErrorCode::not_supported,
            "the kernel's driver and its library are of different versions; reload the driver or "
            "restart the machine"},
    Meaning{805, 809, ErrorCode::unavailable, "check the MPS server, or stop it"},
    Meaning{900, 908, ErrorCode::invalid_argument,
            "something was called during a graph capture that cannot be captured"},
};

std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

bool ends_the_process(int cuda_error) noexcept {
  constexpr std::array kFatal{226, 700, 702, 710, 721, 810, 911};
  return (714 <= cuda_error && cuda_error <= 719) ||
         std::ranges::find(kFatal, cuda_error) != kFatal.end();
}

Status cuda_status(int cuda_error, std::string_view what, std::string_view text) {
  if (cuda_error == 0) return {};
  const auto* const meaning = std::ranges::find_if(
      kMeanings, [&](const Meaning& m) { return m.first <= cuda_error && cuda_error <= m.last; });
  ErrorCode code = ErrorCode::unavailable;
  std::string_view remedy = "see the list of CUDA's errors, and the kernel's log for an Xid";
  if (ends_the_process(cuda_error)) {
    remedy = "nothing in this process can use the device any more, so the process must end";
  } else if (meaning != kMeanings.end()) {
    code = meaning->code;
    remedy = meaning->remedy;
  }
  return {code, std::string(what) + ": " + std::string(text) + " (CUDA error " +
                    std::to_string(cuda_error) + "); " + std::string(remedy)};
}

Status driver_status(int driver_version, int needed_version, std::string_view what) {
  if (driver_version == 0) {
    return {ErrorCode::not_supported,
            std::string(what) +
                ": this machine has no NVIDIA driver (libcuda.so.1 cannot be loaded); install one "
                "that has CUDA " +
                version(needed_version) + ", or start the service without GPUs"};
  }
  return {ErrorCode::not_supported,
          std::string(what) + ": the NVIDIA driver is too old: it has CUDA " +
              version(driver_version) + ", forge was built with " + version(needed_version) +
              "; install a newer driver or build forge with an older "
              "toolkit"};
}

}  // namespace forge::gpu
