// What the workers of a service run: which file of the plugin, which build of forge. A file may be
// replaced while a service runs; each life compares what it finds with what the service began with.
#pragma once

#include <forge/error.h>

#include <cstdint>
#include <string>

namespace forge::replicas {

/// In the environment of a worker: it runs whatever it finds.
inline constexpr const char* kAnyBuild = "FORGE_ANY_BUILD";

/// Of a file. The same device, inode, size and time mean the same contents; of files that differ in
/// those, the hash says it (an identical reinstall, touch).
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t changed_ns = 0;
  std::uint64_t hash = 0;  ///< of the contents
};

/// What this worker finds, as text that only check_build() reads: the plugin's file ("": actors that
/// are linked into the program, which goes on as it was started) and this library. Empty if the file
/// cannot be read.
std::string find_build(const std::string& plugin);

/// Would this worker run the same? PluginError that says what has changed and what to do. Says nothing
/// against a plugin that is not there, which is for whoever opens it, nor if `build` is empty.
Status check_build(const std::string& plugin, const std::string& build);

}  // namespace forge::replicas
