#include "bench/forge_bench/cpus.h"

#include <sched.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

namespace forge::bench {

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

void pin_to(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::string names;
  for (int cpu : cpus) {
    CPU_SET(cpu, &set);
    names += " " + std::to_string(cpu);
  }
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
    throw std::runtime_error("cannot run on cpu" + names + ": " +
                             std::generic_category().message(errno));
  }
}

PinnedScope::~PinnedScope() {
  try {
    pin_to(before_);
  } catch (const std::runtime_error&) {  // a core was taken away meanwhile: stay where we are
  }
}

}  // namespace forge::bench
