#include <forge/router.h>

#include <algorithm>
#include <array>

namespace forge {
namespace {

/// splitmix64 (Vigna, public domain): every bit of the input moves every bit of the output.
constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// What a replica's scores are made with: key × multiplier, of which the upper half counts
/// (multiply-shift hashing, Dietzfelbinger 1997). Keys spread as evenly as with a better and dearer
/// mixture; those of a replica that goes away do so to a percent.
constexpr std::uint64_t multiplier(std::uint32_t idx) { return mix(idx) | 1; }

/// Of the replicas that most services have.
constexpr auto kMultipliers = [] {
  std::array<std::uint64_t, 256> table{};
  for (std::uint32_t idx = 0; idx < table.size(); ++idx) table[idx] = multiplier(idx);
  return table;
}();

/// The position, below `count`, that scores highest for the key.
template <class MultiplierAt>
std::size_t highest_score(std::size_t count, std::uint64_t key, MultiplierAt multiplier_at) {
  // The lower half of a score is replaced by the position, so that a maximum, which needs no
  // branch, is all there is to look for. In pairs, because each waits for the one before it.
  constexpr std::uint64_t kPosition = 0xFFFFFFFF;
  const auto score = [&](std::size_t i) { return (key * multiplier_at(i) & ~kPosition) | i; };
  std::uint64_t best = 0;
  std::size_t i = 0;
  for (; i + 2 <= count; i += 2) {
    const std::uint64_t one = score(i);
    const std::uint64_t other = score(i + 1);
    const std::uint64_t better = one > other ? one : other;
    best = better > best ? better : best;
  }
  if (i < count && score(i) > best) best = score(i);
  return best & kPosition;
}

}  // namespace

const Replica& RoundRobinRouter::get_replica(std::span<const Replica> healthy,
                                             const RouteContext&) {
  return healthy[next_++ % healthy.size()];
}

// Two passes without a branch that depends on the loads, which no processor can predict: they cost
// a fifth of the obvious loop.
const Replica& LeastLoadedRouter::get_replica(std::span<const Replica> healthy,
                                              const RouteContext&) {
  // Four minima side by side, so that each comparison need not wait for the one before it.
  std::array<double, 4> least;
  least.fill(healthy[0].current_load);
  std::size_t i = 0;
  for (; i + least.size() <= healthy.size(); i += least.size()) {
    for (std::size_t k = 0; k < least.size(); ++k) {
      const double load = healthy[i + k].current_load;
      least[k] = load < least[k] ? load : least[k];
    }
  }
  for (; i < healthy.size(); ++i) {
    const double load = healthy[i].current_load;
    least[0] = load < least[0] ? load : least[0];
  }
  const double best = std::min(std::min(least[0], least[1]), std::min(least[2], least[3]));
  for (const Replica& replica : healthy) {
    if (replica.current_load == best) return replica;
  }
  return healthy[0];  // a load was no number
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
  // In order of idx: the last one says whether all of them are there and in the table.
  const std::size_t count = healthy.size();
  const std::uint32_t last = healthy.back().idx;
  std::size_t best = 0;
  if (last >= kMultipliers.size()) {
    best = highest_score(count, key, [&](std::size_t i) { return multiplier(healthy[i].idx); });
  } else if (last + 1 != count) {
    best = highest_score(count, key, [&](std::size_t i) { return kMultipliers[healthy[i].idx]; });
  } else {
    best = highest_score(count, key, [](std::size_t i) { return kMultipliers[i]; });
  }
  return healthy[best];
}

}  // namespace forge
