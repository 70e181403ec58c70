#include "gpu/pin_table.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "gpu/pin_lock.h"

namespace forge::gpu {
namespace {

using std::chrono::milliseconds;

/// Memory that nobody looks at: the table only counts.
HostPiece at(std::uintptr_t begin, std::size_t size) {
  return {reinterpret_cast<const std::byte*>(begin), size};
}

TEST(PinTable, CutsARegionIntoChunks) {
  const auto table = std::make_shared<PinTable>(100);
  const auto claim = std::move(PinTable::claim(table, at(1030, 250))).value();
  std::vector<std::size_t> sizes;
  for (HostPiece rest = claim.memory(); !rest.empty();) {
    sizes.push_back(claim.next_chunk(rest).size());
    rest = rest.subspan(sizes.back());
  }
  EXPECT_EQ(sizes, (std::vector<std::size_t>{100, 100, 50}));
}

TEST(PinTable, TellsHowFarACopyMayGo) {
  const auto table = std::make_shared<PinTable>(100);
  EXPECT_EQ(table->first_run(at(0x1000, 7)).size(), 7u) << "nothing is pinned";
  const auto first = std::move(PinTable::claim(table, at(1000, 150))).value();
  const auto second = std::move(PinTable::claim(table, at(1150, 50))).value();
  struct Case {
    std::uintptr_t begin;
    std::size_t size;
    std::size_t run;
  };
  for (const Case& c : std::vector<Case>{
           {900, 50, 50},    // before all
           {900, 150, 100},  // up to the first region
           {1000, 100, 100},
           {1000, 150, 100},  // up to the next chunk
           {1099, 150, 1},
           {1100, 300, 50},  // up to the next region
           {1150, 300, 50},  // up to its end
           {1200, 300, 300},
       }) {
    const HostPiece run = table->first_run(at(c.begin, c.size));
    EXPECT_EQ(run.data(), at(c.begin, 0).data());
    EXPECT_EQ(run.size(), c.run) << c.begin << "+" << c.size;
  }
}

TEST(PinTable, KnowsWhatIsPinned) {
  const auto table = std::make_shared<PinTable>(100);
  const auto first = std::move(PinTable::claim(table, at(1000, 150))).value();
  {
    const auto second = std::move(PinTable::claim(table, at(1150, 50))).value();
    EXPECT_TRUE(table->covers(at(1000, 200))) << "two neighbours together";
  }
  EXPECT_FALSE(table->covers(at(1000, 200))) << "dropped since";
  EXPECT_TRUE(table->covers(at(1000, 150)));
  EXPECT_TRUE(table->covers(at(1149, 1)));
  EXPECT_FALSE(table->covers(at(1150, 1)));
  EXPECT_FALSE(table->covers(at(999, 2)));
}

// ---- one process at a time

class PinLockTest : public ::testing::Test {
 protected:
  shm::FileDescriptor file_{::memfd_create("test", MFD_CLOEXEC)};
};

TEST_F(PinLockTest, KeepsAnotherProcessOutThatHasTheSameDescriptor) {
  auto mine = std::make_unique<PinLock>(std::move(PinLock::take(file_.get(), {})).value());
  const auto taken_elsewhere = [&] {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(PinLock::take(file_.get(), milliseconds(5)) ? 1 : 0);
    int status = -1;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status) == 1;
  };
  EXPECT_FALSE(taken_elsewhere());
  mine.reset();
  EXPECT_TRUE(taken_elsewhere());
}

TEST_F(PinLockTest, SaysWhyItDidNotGetIt) {
  const auto mine = PinLock::take(file_.get(), {});
  ASSERT_TRUE(mine);
  const auto late = PinLock::take(file_.get(), milliseconds(2));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().error_code(), ErrorCode::unavailable);
  EXPECT_FALSE(PinLock::take(1 << 20, {})) << "no such descriptor";
}

}  // namespace
}  // namespace forge::gpu
