// What the tests of groups share: how a collective ended, and collectives that check themselves.
#pragma once

#include <forge/error.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gpu/group.h"
#include "tests/random.h"

namespace forge::tests {

/// How `body` ended: the error it threw, as a status; ok if none.
template <class Body>
Status outcome(Body&& body) {
  try {
    std::forward<Body>(body)();
    return {};
  } catch (const Error& error) {
    return to_status(error);
  }
}

template <class T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

/// What that rank brings to a collective with that seed: floats of very different sizes, so that
/// every other order of addition would show.
inline std::vector<float> contribution(std::uint64_t seed, int rank, std::size_t count) {
  std::mt19937_64 random(seed * 1000 + static_cast<std::uint64_t>(rank));
  std::vector<float> values(count);
  for (float& value : values) {
    const auto mantissa =
        static_cast<float>(static_cast<std::int64_t>(below(random, 20001)) - 10000);
    value = mantissa * static_cast<float>(std::uint64_t{1} << below(random, 40));
  }
  return values;
}

/// The sum in the order of ranks.
inline std::vector<float> sum_of_contributions(std::uint64_t seed, int procs, std::size_t count) {
  std::vector<float> sum = contribution(seed, 0, count);
  for (int rank = 1; rank < procs; ++rank) {
    const std::vector<float> more = contribution(seed, rank, count);
    for (std::size_t i = 0; i < count; ++i) sum[i] += more[i];
  }
  return sum;
}

/// One collective that the seed chooses; false if its result is not, bit by bit, what it must be.
inline bool play(gpu::Group& group, std::uint64_t seed, std::size_t most) {
  std::mt19937_64 random(seed);
  const std::uint64_t choice = below(random, 4);
  const std::size_t count = below(random, most + 1);
  const int root = static_cast<int>(below(random, static_cast<std::uint64_t>(group.procs())));
  std::vector<float> mine = contribution(seed, group.rank(), count);
  if (choice == 0) {
    group.barrier();
    return true;
  }
  if (choice == 1) {
    group.broadcast(std::as_writable_bytes(std::span(mine)), root);
    return same_bits<float>(mine, contribution(seed, root, count));
  }
  if (choice == 2) {
    group.all_reduce(std::span(mine), gpu::Reduction::sum);
    return same_bits<float>(mine, sum_of_contributions(seed, group.procs(), count));
  }
  std::vector<float> all(count * static_cast<std::size_t>(group.procs()));
  group.all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
  for (int rank = 0; rank < group.procs(); ++rank) {
    const auto theirs = std::span(all).subspan(static_cast<std::size_t>(rank) * count, count);
    if (!same_bits<float>(theirs, contribution(seed, rank, count))) return false;
  }
  return true;
}

}  // namespace forge::tests
