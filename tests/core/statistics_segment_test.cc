// The statistics segment: written by one, read by many, and never believed.
#include "core/statistics_segment.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>

namespace forge::core {
namespace {

using shm::FileDescriptor;

FileDescriptor copy_of(int fd) { return FileDescriptor(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

StatisticsWriter make_writer(std::size_t capacity = 4096) {
  return std::move(StatisticsWriter::create(capacity, 250)).value();
}
StatisticsReader open(const StatisticsWriter& writer) {
  return std::move(StatisticsReader::open(copy_of(writer.fd()))).value();
}

TEST(StatisticsSegment, GivesTheNewestText) {
  StatisticsWriter writer = make_writer();
  const StatisticsReader reader = open(writer);
  EXPECT_EQ(reader.pid(), ::getpid());
  EXPECT_EQ(reader.period_ms(), 250U);
  ASSERT_FALSE(reader.read().has_value());
  EXPECT_EQ(reader.read().error().code(), "unavailable");
  for (std::size_t size : {0U, 1U, 7U, 8U, 9U, 4095U, 4096U, 3U}) {
    const std::string text(size, 'x');
    ASSERT_TRUE(writer.write(text));
    EXPECT_EQ(std::move(reader.read()).value(), text);
  }
  EXPECT_EQ(reader.snapshots(), 8U);
  EXPECT_FALSE(writer.write(std::string(4097, 'x'))) << "it does not fit";
  EXPECT_EQ(std::move(reader.read()).value(), "xxx");
}

TEST(StatisticsSegment, IsReadWholeWhileItIsWritten) {
  StatisticsWriter writer = make_writer();
  const StatisticsReader reader = open(writer);
  ASSERT_TRUE(writer.write("a"));
  std::atomic<bool> stop{false};
  std::thread writing([&] {
    for (unsigned i = 0; !stop.load(); ++i) {
      (void)writer.write(std::string(1 + i % 4096, static_cast<char>('a' + i % 26)));
      if (i % 16 == 0) std::this_thread::yield();
    }
  });
  int whole = 0;
  while (whole < 2000 || reader.snapshots() < 20'000) {
    const auto text = reader.read();
    if (!text) continue;  // written too often: said, not guessed
    ++whole;
    ASSERT_EQ(text->find_first_not_of(text->front()), std::string::npos) << "two texts in one";
  }
  stop.store(true);
  writing.join();
}

TEST(StatisticsSegment, CannotBeChangedByWhoReadsIt) {
  const StatisticsWriter writer = make_writer();
  const FileDescriptor fd = copy_of(writer.fd());
  EXPECT_NE(::ftruncate(fd.get(), 0), 0);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0), MAP_FAILED);
  EXPECT_LT(::pwrite(fd.get(), "x", 1, 0), 0);
}

/// A segment of somebody else's making.
FileDescriptor forge_segment(std::size_t size, const StatisticsHeader& header, bool sealed) {
  FileDescriptor fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  if (size >= sizeof(header)) {
    EXPECT_EQ(::pwrite(fd.get(), &header, sizeof(header), 0), ssize_t{sizeof(header)});
  }
  if (sealed) {
    EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  }
  return fd;
}

void fill(StatisticsHeader& header, std::uint64_t capacity) {
  header.magic = StatisticsHeader::kMagic;
  header.version = StatisticsHeader::kVersion;
  header.capacity = capacity;
}

std::string refusal_of(FileDescriptor fd) {
  const auto reader = StatisticsReader::open(std::move(fd));
  EXPECT_FALSE(reader.has_value());
  return reader ? "" : reader.error().what();
}

TEST(StatisticsSegment, ThatIsForeignIsRefused) {
  constexpr std::size_t kSize = kStatisticsBuffers + 2 * 4096;
  StatisticsHeader header{};
  fill(header, 4096);
  EXPECT_TRUE(StatisticsReader::open(forge_segment(kSize, header, true)).has_value());
  EXPECT_NE(refusal_of(forge_segment(kSize, header, false)).find("may change"), std::string::npos)
      << "it could shrink while it is read";
  EXPECT_NE(refusal_of(forge_segment(0, header, true)).find("0 bytes"), std::string::npos);
  EXPECT_NE(refusal_of(forge_segment(4095, header, true)).find("4095 bytes"), std::string::npos);
  EXPECT_NE(refusal_of(forge_segment(kSize - 1, header, true)).find("larger"), std::string::npos);
  for (const std::uint64_t capacity :
       {std::uint64_t{4097}, std::uint64_t{1} << 40, std::uint64_t{1} << 63, ~std::uint64_t{7}}) {
    fill(header, capacity);
    EXPECT_NE(refusal_of(forge_segment(kSize, header, true)).find("larger"), std::string::npos);
  }
  fill(header, 4096);
  header.version = 2;
  EXPECT_NE(refusal_of(forge_segment(kSize, header, true)).find("version 2"), std::string::npos);
  header.magic = 0;
  EXPECT_NE(refusal_of(forge_segment(kSize, header, true)).find("other bytes"), std::string::npos);
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  const FileDescriptor other(pipe[1]);
  EXPECT_FALSE(refusal_of(FileDescriptor(pipe[0])).empty());
  EXPECT_FALSE(refusal_of(FileDescriptor()).empty());
}

TEST(StatisticsSegment, ThatIsTornSaysSo) {
  StatisticsHeader header{};
  fill(header, 4096);
  header.snapshots.store(5);
  header.lengths[1].store(4097);
  const auto reader =
      std::move(StatisticsReader::open(forge_segment(kStatisticsBuffers + 2 * 4096, header, true)))
          .value();
  const auto text = reader.read();
  ASSERT_FALSE(text.has_value());
  EXPECT_NE(std::string(text.error().what()).find("torn"), std::string::npos);
}

}  // namespace
}  // namespace forge::core
