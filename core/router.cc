#include <forge/router.h>

namespace forge {
namespace {

/// splitmix64 (Vigna, public domain): every bit of the input moves every bit of the output.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

}  // namespace

const Replica& RoundRobinRouter::get_replica(std::span<const Replica> healthy,
                                             const RouteContext&) {
  return healthy[next_++ % healthy.size()];
}

const Replica& LeastLoadedRouter::get_replica(std::span<const Replica> healthy,
                                              const RouteContext&) {
  const Replica* best = &healthy[0];
  for (const Replica& replica : healthy) {
    if (replica.current_load < best->current_load) best = &replica;
  }
  return *best;
}

const Replica& PowerOfTwoRouter::get_replica(std::span<const Replica> healthy,
                                             const RouteContext&) {
  state_ = mix(state_);
  const Replica& a = healthy[(state_ & 0xFFFFFFFF) % healthy.size()];
  const Replica& b = healthy[(state_ >> 32) % healthy.size()];
  return b.current_load < a.current_load ? b : a;
}

const Replica& HashRouter::get_replica(std::span<const Replica> healthy,
                                       const RouteContext& context) {
  const std::uint64_t key = std::hash<std::string_view>{}(context.key);
  const Replica* best = &healthy[0];
  std::uint64_t best_score = 0;
  for (const Replica& replica : healthy) {
    if (const std::uint64_t score = mix(key ^ mix(replica.idx)); score >= best_score) {
      best = &replica;
      best_score = score;
    }
  }
  return *best;
}

}  // namespace forge
