// The last events of a controller, and the bell for those who follow them.
#include "core/event_log.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <string>

#include "shm/file_descriptor.h"

namespace forge::core {
namespace {

void add(EventLog& log, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    log.add({LogLevel::info, "up", "echo", 0, std::to_string(log.last() + 1)});
}

TEST(EventLog, NumbersWithoutGapsAndGivesThoseBehindANumber) {
  EventLog log;
  EXPECT_TRUE(log.since(0, 10).empty());
  add(log, 5);
  const auto found = log.since(2, 2);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].number, 3U);
  EXPECT_EQ(found[1].number, 4U);
  EXPECT_EQ(found[1].text, "4");
  EXPECT_TRUE(log.since(5, 10).empty());
  EXPECT_TRUE(log.since(77, 10).empty()) << "a number that has not been given yet";
}

TEST(EventLog, KeepsTheLastThousandOnly) {
  EventLog log;
  add(log, EventLog::kKept + 30);
  const auto found = log.since(0, 5000);
  ASSERT_EQ(found.size(), EventLog::kKept);
  EXPECT_EQ(found.front().number, 31U);
  EXPECT_EQ(found.back().number, log.last());
  EXPECT_EQ(log.since(7, 1).front().number, 31U) << "those before are gone";
}

TEST(EventLog, CutsTextThatWouldFillMemory) {
  EventLog log;
  log.add({LogLevel::error, "log", "", -1, std::string(1'000'000, 'x')});
  EXPECT_LE(log.since(0, 1).front().text.size(), 2000U);
}

TEST(EventLog, RingsWhileSomebodyFollows) {
  EventLog log;
  const shm::FileDescriptor bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  eventfd_t count = 0;
  add(log, 1);
  EXPECT_NE(::eventfd_read(bell.get(), &count), 0) << "nobody follows yet";
  log.set_bell(bell.get());
  add(log, 3);
  EXPECT_EQ(::eventfd_read(bell.get(), &count), 0);
  EXPECT_EQ(count, 3U);
  log.set_bell(-1);
  add(log, 1);
  EXPECT_NE(::eventfd_read(bell.get(), &count), 0);
}

}  // namespace
}  // namespace forge::core
