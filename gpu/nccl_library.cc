#include "gpu/nccl_library.h"

#include <dlfcn.h>
#include <forge/error.h>

#include <cstdlib>
#include <utility>

namespace forge::gpu {
namespace {

constexpr const char* kUsualName = "libnccl.so.2";

std::string remedy() {
  return "install NCCL " + nccl_version_text(nccl::kOldestVersion) +
         " or newer (libnccl2), or let " + kNcclLibraryVariable +
         " name its libnccl.so.2; or copy with context().to_host() and use the group on host "
         "memory, which needs no NCCL";
}

std::string last_dl_error() {
  const char* const text = ::dlerror();  // NOLINT(concurrency-mt-unsafe): thread-local in glibc
  return text != nullptr ? text : "no reason given";
}

/// Sets `function` to the symbol; its name in `missing` if there is none.
template <class Function>
void find(void* library, const char* name, Function& function, std::string& missing) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr && missing.empty()) missing = name;
}

/// The name of the first function that is missing; empty if there is none.
std::string find_all(void* library, nccl::Functions& call) {
  std::string missing;
  find(library, "ncclGetVersion", call.GetVersion, missing);
  find(library, "ncclGetErrorString", call.GetErrorString, missing);
  find(library, "ncclGetLastError", call.GetLastError, missing);
  find(library, "ncclGetUniqueId", call.GetUniqueId, missing);
  find(library, "ncclCommInitRankConfig", call.CommInitRankConfig, missing);
  find(library, "ncclCommGetAsyncError", call.CommGetAsyncError, missing);
  find(library, "ncclCommFinalize", call.CommFinalize, missing);
  find(library, "ncclCommDestroy", call.CommDestroy, missing);
  find(library, "ncclCommAbort", call.CommAbort, missing);
  find(library, "ncclBroadcast", call.Broadcast, missing);
  find(library, "ncclAllReduce", call.AllReduce, missing);
  find(library, "ncclAllGather", call.AllGather, missing);
  return missing;
}

}  // namespace

std::string nccl_version_text(int version) {
  // Up to 2.8 the major number counted thousands.
  const int major = version < 10000 ? version / 1000 : version / 10000;
  const int rest = version < 10000 ? version % 1000 : version % 10000;
  return std::to_string(major) + "." + std::to_string(rest / 100) + "." +
         std::to_string(rest % 100);
}

void keep_nccl_on_this_host() {
  // The machine's first interface may be down, filtered or a virtual bridge.
  ::setenv("NCCL_SOCKET_IFNAME", "lo", 0);  // NOLINT(concurrency-mt-unsafe)
}

Result<NcclLibrary> load_nccl() {
  const char* const given = std::getenv(kNcclLibraryVariable);  // NOLINT(concurrency-mt-unsafe)
  return load_nccl(given != nullptr && *given != '\0' ? given : kUsualName);
}

Result<NcclLibrary> load_nccl(const std::string& path) {
  const std::string name = "NCCL (" + path + ")";
  // It has threads of its own, so it is never unloaded.
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return make_error(
        {ErrorCode::unavailable, name + " cannot be loaded: " + last_dl_error() + "; " + remedy()});
  }
  NcclLibrary result{.path = path};
  // The version first: what an old library lacks is best said by its age.
  std::string missing = find_all(library, result.call);
  if (result.call.GetVersion != nullptr &&
      result.call.GetVersion(&result.version) == nccl::Code::success &&
      result.version < nccl::kOldestVersion) {
    return make_error({ErrorCode::not_supported, name + " is version " +
                                                     nccl_version_text(result.version) +
                                                     ", which is too old; " + remedy()});
  }
  if (!missing.empty()) {
    return make_error({ErrorCode::not_supported, name + " has no function " + missing +
                                                     ", so it is not NCCL or is incomplete; " +
                                                     remedy()});
  }
  if (result.version == 0) {
    return make_error({ErrorCode::not_supported,
                       name + " does not tell its version, so it is broken; " + remedy()});
  }
  return result;
}

}  // namespace forge::gpu
