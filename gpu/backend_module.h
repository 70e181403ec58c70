// What a module with a backend exports: one object of this type, called forge_backend_module. C++
// types cross here, so the module and libforge-serve must be of one build; that is checked before
// anything is called.
#pragma once

#include <forge/result.h>

#include <cstdint>
#include <memory>
#include <string>

#include "gpu/backend.h"

namespace forge::gpu {

/// Changes with this file and with backend.h.
inline constexpr std::uint32_t kBackendAbi = 1;
inline constexpr const char* kBackendSymbol = "forge_backend_module";

/// Fields are appended, never moved: `abi` and `version` are read whatever the module is.
struct BackendModule {
  std::uint32_t abi;
  std::uint32_t reserved;
  const char* version;  ///< of forge
  Result<std::unique_ptr<Backend>> (*make)(const std::string& uuid);
};

}  // namespace forge::gpu
