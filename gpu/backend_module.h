// What a module with a backend exports: one object of this type, called forge_backend_module.
#pragma once

#include <forge/result.h>

#include <cstdint>
#include <memory>
#include <string>

#include "gpu/backend.h"
#include "shm/module.h"

namespace forge::gpu {

/// Changes with this file and with backend.h.
inline constexpr std::uint32_t kBackendAbi = 1;
inline constexpr const char* kBackendSymbol = "forge_backend_module";

struct BackendModule {
  shm::ModuleHeader header;
  Result<std::unique_ptr<Backend>> (*make)(const std::string& uuid);
};

}  // namespace forge::gpu
