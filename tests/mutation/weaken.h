// Included before every source of the copy that memory_orders.py builds: the environment variable
// FORGE_MUTANT says which memory order or fence is the weaker one in this process.
#pragma once

#include <atomic>
#include <cstdlib>

namespace forge_mutation {

inline const int chosen = [] {
  const char* const number = std::getenv("FORGE_MUTANT");
  return number == nullptr ? 0 : std::atoi(number);
}();

inline bool is(int number) { return number == chosen; }

}  // namespace forge_mutation
