// Modules that are not of this build; what they would do must not be called.
#include <cstdlib>

#include "gpu/backend_module.h"

#ifdef WRONG_ABI
namespace {
forge::Result<std::unique_ptr<forge::gpu::Backend>> make(const std::string&) { std::abort(); }
}  // namespace

extern "C" __attribute__((visibility("default")))
const forge::gpu::BackendModule forge_backend_module{{WRONG_ABI, 0, WRONG_VERSION}, &make};
#endif
