// The decision when a batch leaves, as a table.
#include "core/batching.h"

#include <gtest/gtest.h>

#include <string>

namespace forge::core {
namespace {

using namespace std::chrono_literals;

struct Case {
  const char* what;
  int size;
  std::chrono::nanoseconds timeout;
  std::size_t collected;
  std::chrono::nanoseconds waited;
  bool leaves;
};

constexpr auto kForEver = std::chrono::nanoseconds::max();

class Batching : public ::testing::TestWithParam<Case> {};

TEST_P(Batching, Leaves) {
  const Case& c = GetParam();
  const EndpointOptions options{.batch_size = c.size, .batch_timeout = c.timeout};
  const BatchTime first{100h};
  EXPECT_EQ(batch_leaves(options, c.collected, first, first + c.waited), c.leaves);
}

INSTANTIATE_TEST_SUITE_P(Table, Batching,
                         ::testing::Values(Case{"nothing is no batch", 4, 10ms, 0, 1h, false},
                                           Case{"the first waits", 4, 10ms, 1, 0ns, false},
                                           Case{"not yet full", 4, 10ms, 3, 9'999'999ns, false},
                                           Case{"full at once", 4, 10ms, 4, 0ns, true},
                                           Case{"more than full", 4, 10ms, 5, 0ns, true},
                                           Case{"in time", 4, 10ms, 1, 10ms, true},
                                           Case{"too late", 4, 10ms, 2, 1h, true},
                                           Case{"no patience", 4, 0ns, 1, 0ns, true},
                                           Case{"all patience", 4, kForEver, 3, 1000h, false},
                                           Case{"all patience, but full", 4, kForEver, 4, 0ns,
                                                true},
                                           Case{"one is enough", 1, 10ms, 1, 0ns, true}),
                         [](const auto& test) {
                           std::string name(test.param.what);
                           std::erase_if(name, [](char c) { return c == ' ' || c == ','; });
                           return name;
                         });

TEST(BatchDue, IsNeverBeyondTheEndOfTime) {
  const EndpointOptions patient{.batch_timeout = kForEver};
  EXPECT_EQ(batch_due(patient, BatchTime(1h)), BatchTime::max());
  EXPECT_EQ(batch_due({.batch_timeout = 5ms}, BatchTime(1h)), BatchTime(1h + 5ms));
}

}  // namespace
}  // namespace forge::core
