#include "shm/module.h"

#include <dlfcn.h>

#include <string>
#include <string_view>
#include <system_error>

namespace forge::shm {

namespace fs = std::filesystem;

fs::path library_folder() {
  Dl_info info{};
  ::dladdr(reinterpret_cast<void*>(&library_folder), &info);
  std::error_code ignored;
  return fs::canonical(info.dli_fname == nullptr ? "" : info.dli_fname, ignored).parent_path();
}

Result<const ModuleHeader*> open_module(const fs::path& path, const char* symbol, std::uint32_t abi,
                                        const std::string& missing) {
  const auto refused = [&](const std::string& why) {
    return make_error({ErrorCode::not_supported, path.string() + ": " + why});
  };
  std::error_code error;
  if (!fs::exists(path, error)) return refused("there is no such file; " + missing);
  // Never closed: libraries in it have threads and handlers of their own.
  void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    const char* const why = ::dlerror();  // NOLINT(concurrency-mt-unsafe): per thread in glibc
    return refused(std::string("it cannot be loaded: ") + (why ? why : "unknown reason") +
                   "; install module and libforge-serve of one build");
  }
  const auto* const module = static_cast<const ModuleHeader*>(::dlsym(handle, symbol));
  if (module == nullptr) return refused("it is no module of forge; install forge's own there");
  const std::string_view version = module->version == nullptr ? "?" : module->version;
  if (module->abi != abi || version != FORGE_VERSION) {
    return refused("it is of another build: interface " + std::to_string(module->abi) +
                   " of forge " + std::string(version) + ", this is " + std::to_string(abi) +
                   " of " FORGE_VERSION "; install module and libforge-serve of one build");
  }
  return module;
}

}  // namespace forge::shm
