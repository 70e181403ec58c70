#include "replicas/affinity.h"

#include <sched.h>

#include <cstdio>
#include <cstdlib>

#include "gpu/devices.h"

namespace forge::replicas {

void settle(int cpu) {
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  if (cpu >= 0) {
    CPU_SET(static_cast<std::size_t>(cpu), &wanted);
    if (::sched_setaffinity(0, sizeof(wanted), &wanted) != 0)
      std::fprintf(stderr, "forge-worker: cannot pin to core %d\n", cpu);
    return;
  }
  const char* const near = std::getenv(kCpusVariable);  // NOLINT(concurrency-mt-unsafe): one thread
  if (near == nullptr) return;
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (const int core : gpu::parse_cpu_list(near)) {
    if (core < CPU_SETSIZE) CPU_SET(static_cast<std::size_t>(core), &wanted);
  }
  CPU_AND(&wanted, &wanted, &allowed);
  // None: whoever keeps the program to some cores has kept it away from these.
  if (CPU_COUNT(&wanted) == 0) return;
  if (::sched_setaffinity(0, sizeof(wanted), &wanted) != 0)
    std::fprintf(stderr, "forge-worker: cannot keep to cores %s\n", near);
}

}  // namespace forge::replicas
