#include "counter.h"

#include <forge/plugin.h>

using namespace std::chrono_literals;

std::vector<std::int64_t> Counter::add_many(std::vector<std::int64_t> amounts) {
  for (std::int64_t& amount : amounts) amount = v_ += amount;
  return amounts;
}

FORGE_PLUGIN(m) {
  m.actor<Counter, std::int64_t>("Counter", "Counts.")
      .defaults({.procs = 1})
      .endpoint("incr", &Counter::incr)
      .endpoint("value", &Counter::value)
      .service_endpoint("add", &Counter::add, {.router = "least_loaded"})
      .batched_endpoint("add_many", &Counter::add_many, {.batch_size = 8, .batch_timeout = 10ms});
}
