// Which backend a worker gets. Called in workers only: a controller makes no CUDA call.
#pragma once

#include <forge/result.h>

#include <filesystem>
#include <memory>
#include <string>

#include "gpu/backend.h"

namespace forge::gpu {

/// The UUID of the device a worker was given; not set without one.
inline constexpr const char* kDeviceVariable = "FORGE_DEVICE";
/// What goes wrong on a device that the host poses as; see parse_host_faults().
inline constexpr const char* kDeviceFaultVariable = "FORGE_FAKE_DEVICE_FAULT";
/// Devices whose UUID begins so are for tests: the host poses as them.
inline constexpr const char* kFakeDevicePrefix = "GPU-fake";

struct BackendSpec {
  std::string device{};  ///< UUID; it is device 0 of this process. Empty: no device
  std::string faults{};  ///< of a fake device
  /// Where the module of the CUDA backend lies; empty: beside libforge-serve.
  std::filesystem::path folder{};

  static BackendSpec from_environment();
};

/// The host's backend without a device, and the device's with one: never the host's in its place.
/// Errors: NotSupported if this build of forge, or the driver, or the device's architecture does not
/// go with CUDA as forge uses it; Unavailable if the device is not there, busy or broken; both say
/// what to do.
Result<std::unique_ptr<Backend>> make_backend(const BackendSpec& spec);

}  // namespace forge::gpu
