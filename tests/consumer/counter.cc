// The plugin, libcounter.so.
#include "counter.h"

#include <stdexcept>

void Counter::fail() const { throw std::runtime_error("counted too far"); }

FORGE_PLUGIN(m) {
  m.actor<Counter, std::int64_t>("Counter", "Counts.")
      .defaults({.procs = 1})
      .endpoint("incr", &Counter::incr)
      .endpoint("value", &Counter::value)
      .service_endpoint("add", &Counter::add, {.router = "round_robin"})
      .endpoint("fail", &Counter::fail);
}
