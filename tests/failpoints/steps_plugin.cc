// Actors that come by the steps which forge-bench chaos' actor does not know: coroutines, and ranks
// that work together.
#include <forge/plugin.h>

#include <chrono>
#include <cstdint>
#include <span>

namespace {

class Napper : public forge::ForgeActor {
 public:
  forge::Task<std::int64_t> ask(std::int64_t value) {
    co_await forge::sleep_for(std::chrono::microseconds(value % 300));
    co_return value + 1;
  }
};

class Choir : public forge::ForgeActor {
 public:
  std::int64_t ask(std::int64_t value) {
    std::int64_t ranks = 1;
    forge::context().group().all_reduce(std::span(&ranks, 1), forge::Reduction::sum);
    return value + ranks - 1;
  }
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Napper>("Napper", "Answers the next number, when it has slept.")
      .service_endpoint("ask", &Napper::ask, {.idempotent = true})
      .endpoint("ask_once", &Napper::ask);
  m.actor<Choir>("Choir", "Two ranks answer the next number together.")
      .service_endpoint("ask", &Choir::ask, {.idempotent = true})
      .endpoint("ask_once", &Choir::ask);
}
