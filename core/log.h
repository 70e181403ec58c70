// Where a controller's log lines go. spdlog writes them; only log.cc knows it.
#pragma once

#include <forge/controller.h>

#include <functional>
#include <string_view>

namespace forge::core {

/// Takes a line. Any thread, under any lock; throws nothing.
using Log = std::function<void(LogLevel, std::string_view)>;

/// Lines of `level` and above go to `on_log`, one at a time and as they are; if it is empty, to standard
/// error with time and level, in colours where that is a terminal. FORGE_LOG in the environment says
/// another level.
[[gnu::visibility("default")]] Log open_log(LogLevel level, Log on_log);

}  // namespace forge::core
