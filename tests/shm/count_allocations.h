// Counts every heap allocation of the test program it is linked into, shared libraries included.
#pragma once

#include <atomic>
#include <cstddef>

namespace forge::tests {

struct Allocations {
  std::atomic<std::size_t> count{0};
  std::atomic<std::size_t> largest{0};  ///< bytes
};
Allocations& allocations();

}  // namespace forge::tests
