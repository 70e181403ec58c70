// Where a controller's log lines go. spdlog makes them; only log.cc knows it.
#pragma once

#include <forge/controller.h>

#include <functional>
#include <memory>
#include <string_view>

#include "core/outlet.h"

namespace forge::core {

using OnLog = std::function<void(LogLevel, std::string_view)>;

/// Lines of `level` and above go to `on_log`, one at a time and as they are; if it is empty, to standard
/// error with time and level, in colours where that is a terminal. FORGE_LOG in the environment says
/// another level. Either gets them from a thread of its own (outlet.h), so nobody waits for it. Any
/// thread. A copy is the same log; the last one closes it.
class [[gnu::visibility("default")]] Log {
 public:
  /// Throws Unavailable if there is no thread for it.
  explicit Log(LogLevel level, OnLog on_log = {});
  /// Takes a line. Under any lock; throws nothing.
  void operator()(LogLevel level, std::string_view text) const;
  /// Returns when the lines so far have been taken, or nobody takes them (W3 in outlet.h).
  void drain() const;
  /// drain(); then nothing is taken any more. Not under a lock.
  void close() const;

 private:
  struct Writer;
  std::shared_ptr<Writer> writer_;
};

}  // namespace forge::core
