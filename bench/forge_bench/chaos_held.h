// What this process and a service hold of the system: the same before and after faults, if nothing
// leaks.
#pragma once

#include <forge/service.h>
#include <cstddef>
#include <string>

namespace forge::bench {

struct Held {
  std::size_t descriptors = 0;
  std::size_t segments = 0;   ///< mappings of forge's shared memory
  std::size_t processes = 0;  ///< children, zombies too
  std::size_t arena = 0;      ///< the largest tensor that fits, in bytes; 0: not looked at

  /// As much of the arena is free, and no more of the rest is held.
  bool within(const Held& before) const {
    return descriptors <= before.descriptors && segments <= before.segments &&
           processes <= before.processes && arena >= before.arena;
  }
};

/// By this process.
Held held_now();
/// With the largest free piece of the service's arena.
Held held_now(const Service& service);
std::string describe(const Held& held);

}  // namespace forge::bench
