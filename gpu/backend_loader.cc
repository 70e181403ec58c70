#include "gpu/backend_loader.h"

#include <cstdlib>

#include "gpu/backend_module.h"
#include "gpu/host_backend.h"

namespace forge::gpu {
namespace {

constexpr const char* kCudaModule = "libforge-cuda.so";

std::string variable(const char* name) {
  const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return value == nullptr ? "" : value;
}

Result<std::unique_ptr<Backend>> make_fake(const BackendSpec& spec) {
  auto faults = parse_host_faults(spec.faults);
  if (!faults) return faults.error_ptr();
  return make_host_device({.uuid = spec.device, .faults = *faults});
}

Result<std::unique_ptr<Backend>> make_cuda(const BackendSpec& spec) {
  const auto folder = spec.folder.empty() ? shm::library_folder() : spec.folder;
  auto module = shm::open_module(folder / kCudaModule, kBackendSymbol, kBackendAbi,
                                 "build forge with the CUDA toolkit (FORGE_CUDA=ON), or start the "
                                 "service without GPUs");
  if (!module) {
    const Status status = to_status(module.error());
    return make_error({status.code, "device " + spec.device + ": " + status.message});
  }
  return reinterpret_cast<const BackendModule*>(*module)->make(spec.device);
}

}  // namespace

BackendSpec BackendSpec::from_environment() {
  return {.device = variable(kDeviceVariable), .faults = variable(kDeviceFaultVariable)};
}

Result<std::unique_ptr<Backend>> make_backend(const BackendSpec& spec) {
  if (spec.device.empty()) return make_host_backend();
  if (spec.device.starts_with(kFakeDevicePrefix)) return make_fake(spec);
  return make_cuda(spec);
}

}  // namespace forge::gpu
