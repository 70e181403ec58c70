// The bare start of a worker: a process that links the library, opens the plugin and ends.
#pragma once

#include <string>

namespace forge::bench {

/// The first argument with which this program is started to be that process.
inline constexpr const char* kOpenPlugin = "--open-plugin";

/// What that process does; its exit status.
int open_plugin(const char* path);

/// From posix_spawn to the end of that process, in ns. Throws std::runtime_error if it did not open
/// the plugin.
double spawn_and_open_ns(const std::string& plugin);

}  // namespace forge::bench
