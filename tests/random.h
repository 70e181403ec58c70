// Random tests print their seed and take it again from FORGE_TEST_SEED.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>

namespace forge::tests {

inline std::mt19937_64 seeded() {
  const char* given = std::getenv("FORGE_TEST_SEED");
  const std::uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::cout << "FORGE_TEST_SEED=" << seed << std::endl;
  return std::mt19937_64(seed);
}

/// A number in [0, end).
inline std::uint64_t below(std::mt19937_64& random, std::uint64_t end) { return random() % end; }

}  // namespace forge::tests
