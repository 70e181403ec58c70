// Modules: parts of forge that only some programs want, each a shared object of its own beside
// libforge-serve, so that the libraries it needs are loaded by those alone.
//
// A module exports one object that begins with a ModuleHeader. C++ types cross behind it, so module
// and libforge-serve must be of one build; that is checked before anything is called.
#pragma once

#include <forge/result.h>

#include <cstdint>
#include <filesystem>

namespace forge::shm {

/// Fields are appended, never moved: these are read whatever the module is.
struct ModuleHeader {
  std::uint32_t abi;  ///< of the interface that the module is for
  std::uint32_t reserved;
  const char* version;  ///< of forge
};

/// The folder that libforge-serve lies in.
std::filesystem::path library_folder();

/// The object `symbol` of the module, which is never closed again. Error: NotSupported, which says what
/// is wrong with the file, and `missing` if there is none.
Result<const ModuleHeader*> open_module(const std::filesystem::path& path, const char* symbol,
                                        std::uint32_t abi, const std::string& missing);

}  // namespace forge::shm
