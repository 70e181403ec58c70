#include "gpu/backend_loader.h"

#include <cstdlib>

#include "gpu/host_backend.h"

namespace forge::gpu {
namespace {

std::string variable(const char* name) {
  const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return value == nullptr ? "" : value;
}

Result<std::unique_ptr<Backend>> make_fake(const BackendSpec& spec) {
  auto faults = parse_host_faults(spec.faults);
  if (!faults) return faults.error_ptr();
  return make_host_device({.uuid = spec.device, .faults = *faults});
}

}  // namespace

BackendSpec BackendSpec::from_environment() {
  return {.device = variable(kDeviceVariable), .faults = variable(kDeviceFaultVariable)};
}

Result<std::unique_ptr<Backend>> make_backend(const BackendSpec& spec) {
  if (spec.device.empty()) return make_host_backend();
  if (spec.device.starts_with(kFakeDevicePrefix)) return make_fake(spec);
  return make_error({ErrorCode::not_supported,
                     "device " + spec.device + ": this build of forge has no CUDA backend"});
}

}  // namespace forge::gpu
