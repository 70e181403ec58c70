// On what, and with what, something was measured.
#pragma once

#include <string>

namespace forge::bench {

struct Machine {
  std::string cpu;
  int cpus = 0;  ///< this process may use
  double memory_gib = 0;
  std::string kernel;
  std::string architecture;
  double load = 0;   ///< of the last minute, before we came
  std::string date;  ///< UTC, ISO 8601
};
Machine look_at_machine();

/// Physical memory of a process, in bytes; 0 if it has ended. "self" is this one.
double resident_bytes(const std::string& pid);

/// What was built: fixed when compiled.
struct Build {
  std::string version;
  std::string git;  ///< short hash, "-dirty" if files differed, "unknown" outside a repository
  std::string compiler;
  std::string type;
};
Build build();

}  // namespace forge::bench
