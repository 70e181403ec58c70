#include "gpu/backend_loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string_view>
#include <system_error>

#include "gpu/backend_module.h"
#include "gpu/host_backend.h"

namespace forge::gpu {
namespace {

namespace fs = std::filesystem;

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

/// The folder libforge-serve lies in.
fs::path library_folder() {
  Dl_info info{};
  ::dladdr(reinterpret_cast<void*>(&library_folder), &info);
  std::error_code ignored;
  return fs::canonical(info.dli_fname == nullptr ? "" : info.dli_fname, ignored).parent_path();
}

/// Ok if the module was built together with this library.
Status check_abi(const BackendModule& module) {
  const std::string_view version = module.version == nullptr ? "?" : module.version;
  if (module.abi == kBackendAbi && version == FORGE_VERSION) return {};
  return {ErrorCode::not_supported,
          "it is of another build: interface " + std::to_string(module.abi) + " of forge " +
              std::string(version) + ", this is " + std::to_string(kBackendAbi) +
              " of " FORGE_VERSION "; install module and libforge-serve of one build"};
}

Result<std::unique_ptr<Backend>> make_cuda(const BackendSpec& spec) {
  const fs::path path = (spec.folder.empty() ? library_folder() : spec.folder) / kCudaModule;
  const auto refused = [&](const std::string& why) {
    return make_error(
        {ErrorCode::not_supported, "device " + spec.device + ": " + path.string() + ": " + why});
  };
  std::error_code error;
  if (!fs::exists(path, error)) {
    return refused(
        "there is no such file; build forge with the CUDA toolkit (FORGE_CUDA=ON), or "
        "start the service without GPUs");
  }
  // Never closed: the runtime in it has threads and handlers of its own.
  void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    const char* const why = ::dlerror();  // NOLINT(concurrency-mt-unsafe): per thread in glibc
    return refused(std::string("it cannot be loaded: ") + (why ? why : "unknown reason") +
                   "; install module and libforge-serve of one build");
  }
  const auto* const module = static_cast<const BackendModule*>(::dlsym(handle, kBackendSymbol));
  if (module == nullptr) return refused("it is no module of forge; install forge's own there");
  if (Status status = check_abi(*module); !status.ok()) return refused(status.message);
  return module->make(spec.device);
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
