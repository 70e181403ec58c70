// The layout that controller and worker share: where everything lies, and what a file that is none
// of ours is told.
#include "shm/control_file.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace forge::shm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Offsets = std::map<std::string, std::size_t>;
#define OFFSET(Struct, field) \
  { #field, offsetof(Struct, field) }

// ---- the header

TEST(FileHeader, IsValidAsItIsMade) {
  const FileHeader header = make_header(12345, 7);
  EXPECT_EQ(invalid(header, 12345), "");
  EXPECT_EQ(header.incarnation, 7u);
}

TEST(FileHeader, BeginsWithTheNameOfTheFormat) {
  const FileHeader header = make_header(0, 0);
  char text[8];
  std::memcpy(text, &header, sizeof text);
  EXPECT_STREQ(text, "FORGE1");
}

TEST(FileHeader, SaysWhatIsWrongWithIt) {
  const auto complaint = [](auto change) {
    FileHeader header = make_header(4096, 1);
    change(header);
    return invalid(header, 4096);
  };
  EXPECT_THAT(complaint([](FileHeader& h) { h.magic ^= 1; }), HasSubstr("not a forge file"));
  EXPECT_THAT(complaint([](FileHeader& h) { h.version = 99; }),
              AllOf(HasSubstr("version 99"), HasSubstr(std::to_string(kLayoutVersion)),
                    HasSubstr("one build")));
  EXPECT_THAT(complaint([](FileHeader& h) { h.window = 17; }), HasSubstr("window 17"));
  EXPECT_THAT(complaint([](FileHeader& h) { h.file_size = 4097; }), HasSubstr("file size"));
  EXPECT_THAT(invalid(FileHeader{}, 4096), HasSubstr("not a forge file")) << "a file of zeros";
  EXPECT_THAT(invalid(make_header(4096, 1), 8192), HasSubstr("file size"));
}

// ---- the layout

/// If this fails, raise kLayoutVersion and write the new offsets here: worker and library of two
/// builds must not take one layout for the other.
TEST(Layout, OfVersionSixIsThis) {
  ASSERT_EQ(kLayoutVersion, 6u);
  EXPECT_EQ(kWindow, 256u);
  EXPECT_EQ(kReleases, 1024u);
  EXPECT_EQ(
      (Offsets{OFFSET(FileHeader, magic), OFFSET(FileHeader, version), OFFSET(FileHeader, window),
               OFFSET(FileHeader, file_size), OFFSET(FileHeader, incarnation)}),
      (Offsets{
          {"magic", 0}, {"version", 8}, {"window", 12}, {"file_size", 16}, {"incarnation", 24}}));
  EXPECT_EQ((Offsets{OFFSET(RequestSlot, id), OFFSET(RequestSlot, block),
                     OFFSET(RequestSlot, block_size), OFFSET(RequestSlot, head_size),
                     OFFSET(RequestSlot, client), OFFSET(RequestSlot, endpoint),
                     OFFSET(RequestSlot, deadline_ns), OFFSET(RequestSlot, session),
                     OFFSET(RequestSlot, batch), OFFSET(RequestSlot, attempt),
                     OFFSET(RequestSlot, kind), OFFSET(RequestSlot, lockstep)}),
            (Offsets{{"id", 0},
                     {"block", 8},
                     {"block_size", 16},
                     {"head_size", 24},
                     {"client", 28},
                     {"endpoint", 30},
                     {"deadline_ns", 32},
                     {"session", 40},
                     {"batch", 48},
                     {"attempt", 52},
                     {"kind", 54},
                     {"lockstep", 56}}));
  EXPECT_EQ((Offsets{OFFSET(ResponseSlot, id), OFFSET(ResponseSlot, block),
                     OFFSET(ResponseSlot, block_size), OFFSET(ResponseSlot, head_size),
                     OFFSET(ResponseSlot, attempt), OFFSET(ResponseSlot, kind),
                     OFFSET(ResponseSlot, flags), OFFSET(ResponseSlot, answer)}),
            (Offsets{{"id", 0},
                     {"block", 8},
                     {"block_size", 16},
                     {"head_size", 24},
                     {"attempt", 28},
                     {"kind", 30},
                     {"flags", 31},
                     {"answer", 32}}));
  EXPECT_EQ((Offsets{OFFSET(RequestFile, header), OFFSET(RequestFile, identity),
                     OFFSET(RequestFile, assignment), OFFSET(RequestFile, requests_tail),
                     OFFSET(RequestFile, responses_head), OFFSET(RequestFile, releases_tail),
                     OFFSET(RequestFile, worker_bell), OFFSET(RequestFile, requests),
                     OFFSET(RequestFile, releases)}),
            (Offsets{{"header", 0},
                     {"identity", 32},
                     {"assignment", 56},
                     {"requests_tail", 128},
                     {"responses_head", 256},
                     {"releases_tail", 384},
                     {"worker_bell", 512},
                     {"requests", 640},
                     {"releases", 640 + 256 * 64}}));
  EXPECT_EQ((Offsets{OFFSET(ResponseFile, header), OFFSET(ResponseFile, requests_head),
                     OFFSET(ResponseFile, started), OFFSET(ResponseFile, responses_tail),
                     OFFSET(ResponseFile, releases_head), OFFSET(ResponseFile, parked),
                     OFFSET(ResponseFile, caller_bell), OFFSET(ResponseFile, engine_bell),
                     OFFSET(ResponseFile, heartbeat), OFFSET(ResponseFile, exit_reason),
                     OFFSET(ResponseFile, responses), OFFSET(ResponseFile, flight),
                     OFFSET(ResponseFile, crash), OFFSET(ResponseFile, device_memory)}),
            (Offsets{{"header", 0},
                     {"requests_head", 128},
                     {"started", 256},
                     {"responses_tail", 384},
                     {"releases_head", 512},
                     {"parked", 640},
                     {"caller_bell", 768},
                     {"engine_bell", 896},
                     {"heartbeat", 1024},
                     {"exit_reason", 1032},
                     {"responses", 1152},
                     {"flight", 1152 + 256 * 128},
                     {"crash", 1152 + 256 * 128 + 1032},
                     {"device_memory", 1152 + 256 * 128 + 1032 + 1616}}));
  EXPECT_EQ((Offsets{OFFSET(DeviceMemory, used), OFFSET(DeviceMemory, pooled),
                     OFFSET(DeviceMemory, total)}),
            (Offsets{{"used", 0}, {"pooled", 8}, {"total", 16}}));
  EXPECT_EQ((Offsets{OFFSET(FlightEvent, id), OFFSET(FlightEvent, began_ns),
                     OFFSET(FlightEvent, bytes), OFFSET(FlightEvent, endpoint),
                     OFFSET(FlightEvent, requests), OFFSET(FlightEvent, state)}),
            (Offsets{{"id", 0},
                     {"began_ns", 8},
                     {"bytes", 16},
                     {"endpoint", 24},
                     {"requests", 26},
                     {"state", 28}}));
  EXPECT_EQ(offsetof(ArenaHeader, poller), 128u);
  EXPECT_EQ(kAnswersOffset, 36864u);
  EXPECT_EQ(kRequestFileSize, 28672u);
}

/// Words that different moments of a call touch lie 128 bytes apart, because processors fetch lines
/// in pairs.
TEST(Layout, KeepsHotWordsOnLinePairsOfTheirOwn) {
  for (std::vector<std::size_t> words :
       {std::vector<std::size_t>{
            offsetof(RequestFile, identity), offsetof(RequestFile, requests_tail),
            offsetof(RequestFile, responses_head), offsetof(RequestFile, releases_tail),
            offsetof(RequestFile, worker_bell), offsetof(RequestFile, requests)},
        std::vector<std::size_t>{
            offsetof(ResponseFile, header), offsetof(ResponseFile, requests_head),
            offsetof(ResponseFile, started), offsetof(ResponseFile, responses_tail),
            offsetof(ResponseFile, releases_head), offsetof(ResponseFile, parked),
            offsetof(ResponseFile, caller_bell), offsetof(ResponseFile, engine_bell),
            offsetof(ResponseFile, heartbeat), offsetof(ResponseFile, responses)}}) {
    for (std::size_t& word : words) word /= 128;
    EXPECT_TRUE(std::is_sorted(words.begin(), words.end()));
    EXPECT_EQ(std::adjacent_find(words.begin(), words.end()), words.end());
  }
}

TEST(Layout, PutsSlotsOnLinesAndMemoryOnPages) {
  EXPECT_EQ(offsetof(RequestFile, requests) % 64, 0u);
  EXPECT_EQ(offsetof(ResponseFile, responses) % 128, 0u);
  EXPECT_EQ(kAnswersOffset % kPage, 0u);
  EXPECT_EQ(kArenaBlocksOffset % kPage, 0u);
  EXPECT_GE(kAnswersOffset, sizeof(ResponseFile));
  EXPECT_GE(kRequestFileSize, sizeof(RequestFile));
  EXPECT_NE(kAnswersOffset, 0u) << "block 0 says that there is none";
  EXPECT_EQ(page_up(0), 0u);
  EXPECT_EQ(page_up(1), kPage);
  EXPECT_EQ(page_up(kPage), kPage);
}

}  // namespace
}  // namespace forge::shm
