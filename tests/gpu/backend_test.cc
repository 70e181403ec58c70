// What every backend must do; gather_test.cc has more of it, backend_kinds.cc which backends.
#include "gpu/backend.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/backend_fixture.h"

namespace forge::gpu {
namespace {

using ::testing::HasSubstr;

// ---- copies

TEST_P(AnyBackend, BringsBackWhatItWasGiven) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{255}, std::size_t{4096 + 3}}) {
    const auto buffer = allocate(size);
    EXPECT_EQ(buffer->size(), size);
    const Bytes given = some_bytes(size);
    EXPECT_TRUE(stream_->copy_in(*buffer, 0, given).ok());
    EXPECT_EQ(content(*buffer), given);
  }
}

TEST_P(AnyBackend, CopiesPartsAndLeavesTheRest) {
  const auto buffer = zeros(100);
  const Bytes given = some_bytes(30);
  EXPECT_TRUE(stream_->copy_in(*buffer, 20, given).ok());
  Bytes expected(100);
  std::ranges::copy(given, expected.begin() + 20);
  EXPECT_EQ(content(*buffer), expected);
  Bytes part(10);
  EXPECT_TRUE(stream_->copy_out(part, *buffer, 25).ok());
  EXPECT_TRUE(stream_->synchronize().ok());
  EXPECT_EQ(part, Bytes(given.begin() + 5, given.begin() + 15));
}

TEST_P(AnyBackend, RefusesCopiesThatLeaveTheBuffer) {
  constexpr std::size_t kHuge = std::numeric_limits<std::size_t>::max();
  const auto buffer = zeros(10);
  Bytes host = some_bytes(11);
  const Bytes before = host;
  const auto part = [&](std::size_t size) { return std::span(host).first(size); };
  expect_invalid(stream_->copy_in(*buffer, 0, host));
  expect_invalid(stream_->copy_in(*buffer, 10, part(1)));
  expect_invalid(stream_->copy_in(*buffer, 11, {}));
  expect_invalid(stream_->copy_in(*buffer, kHuge, part(2)));
  expect_invalid(stream_->copy_out(host, *buffer, 0));
  expect_invalid(stream_->copy_out(part(6), *buffer, 5));
  expect_invalid(stream_->copy_out(part(2), *buffer, kHuge));
  EXPECT_EQ(content(*buffer), Bytes(10));
  EXPECT_EQ(host, before);
}

TEST_P(AnyBackend, CopiesNothingFromNowhere) {
  const auto empty = allocate(0);
  EXPECT_EQ(empty->size(), 0u);
  EXPECT_TRUE(stream_->copy_in(*empty, 0, {}).ok());
  EXPECT_TRUE(stream_->copy_out({}, *empty, 0).ok());
  const auto buffer = zeros(4);
  EXPECT_TRUE(stream_->copy_in(*buffer, 4, {}).ok());
  EXPECT_TRUE(stream_->gather(*buffer, 4, {}).ok());
  EXPECT_EQ(content(*buffer), Bytes(4));
}

TEST_P(AnyBackend, DoesTheWorkOfAStreamInOrder) {
  constexpr std::size_t kSize = 64 * 1024;
  const auto buffer = allocate(kSize);
  // Pinned, so that a backend that can be asynchronous is.
  const Pages given(16 * kSize / Pages::kPage);
  const Pages taken(16 * kSize / Pages::kPage, 0);
  const auto pinned = pin(given);
  const auto pinned_taken = pin(taken);
  for (std::size_t i = 0; i < 16; ++i) {
    ASSERT_TRUE(stream_->copy_in(*buffer, 0, given.bytes().subspan(i * kSize, kSize)).ok());
    ASSERT_TRUE(stream_->copy_out(taken.bytes().subspan(i * kSize, kSize), *buffer, 0).ok());
  }
  EXPECT_TRUE(stream_->synchronize().ok());
  EXPECT_EQ(taken.copy(), given.copy());
}

TEST_P(AnyBackend, CopiesFromBufferToBuffer) {
  const auto from = zeros(100);
  const auto to = zeros(50);
  const Bytes given = some_bytes(100);
  EXPECT_TRUE(stream_->copy_in(*from, 0, given).ok());
  EXPECT_TRUE(stream_->copy_between(*to, 10, *from, 60, 40).ok());
  EXPECT_TRUE(stream_->copy_between(*to, 50, *from, 100, 0).ok());
  Bytes expected(50);
  std::copy_n(given.begin() + 60, 40, expected.begin() + 10);
  EXPECT_EQ(content(*to), expected);
  expect_invalid(stream_->copy_between(*to, 11, *from, 60, 40));
  expect_invalid(stream_->copy_between(*to, 10, *from, 61, 40));
}

TEST_P(AnyBackend, CopiesToBorrowedMemory) {
  const auto buffer = zeros(100);
  BorrowedBuffer part(buffer->device_data() + 10, 5);
  const Bytes given = some_bytes(5);
  EXPECT_TRUE(stream_->copy_in(part, 0, given).ok());
  expect_invalid(stream_->copy_in(part, 1, given));
  Bytes expected(100);
  std::ranges::copy(given, expected.begin() + 10);
  EXPECT_EQ(content(*buffer), expected);
}

// ---- events

TEST_P(AnyBackend, HasEventsThatAreDoneWhenTheirWorkIs) {
  const auto event = std::move(backend_->make_event()).value();
  EXPECT_TRUE(event->done().value()) << "nothing was recorded";
  EXPECT_TRUE(event->synchronize().ok());
  const auto buffer = allocate(1 << 20);
  const Bytes given = some_bytes(1 << 20);
  Bytes taken(given.size());
  for (int round = 0; round < 3; ++round) {
    std::ranges::fill(taken, std::byte{0});
    EXPECT_TRUE(stream_->copy_in(*buffer, 0, given).ok());
    EXPECT_TRUE(stream_->copy_out(taken, *buffer, 0).ok());
    EXPECT_TRUE(stream_->record(*event).ok());
    while (!event->done().value()) {
    }
    EXPECT_EQ(taken, given);
    EXPECT_TRUE(event->synchronize().ok());
  }
}

TEST_P(AnyBackend, LetsOneStreamWaitForAnother) {
  const auto other = std::move(backend_->make_stream()).value();
  const auto event = std::move(backend_->make_event()).value();
  const auto buffer = allocate(1 << 20);
  const Bytes given = some_bytes(1 << 20, 9);
  Bytes taken(given.size());
  EXPECT_TRUE(stream_->copy_in(*buffer, 0, given).ok());
  EXPECT_TRUE(stream_->record(*event).ok());
  EXPECT_TRUE(other->wait(*event).ok());
  EXPECT_TRUE(other->copy_out(taken, *buffer, 0).ok());
  EXPECT_TRUE(other->synchronize().ok());
  EXPECT_EQ(taken, given);
}

// ---- memory for other processes

TEST_P(AnyBackend, OpensWhatWasExported) {
  const auto shared = std::move(backend_->allocate_shared(1000)).value();
  EXPECT_EQ(shared->size(), 1000u);
  const IpcHandle handle = backend_->export_buffer(*shared).value();
  const auto same = std::move(backend_->import_buffer(handle)).value();
  EXPECT_EQ(same->size(), 1000u);
  const Bytes given = some_bytes(1000);
  EXPECT_TRUE(stream_->copy_in(*shared, 0, given).ok());
  EXPECT_EQ(content(*same), given);
}

TEST_P(AnyBackend, ExportsOnlySharedMemory) {
  const auto refused = backend_->export_buffer(*allocate(10));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error_code(), ErrorCode::invalid_argument);
}

TEST_P(AnyBackend, OpensNoHandleThatIsNone) {
  const auto refused = backend_->import_buffer(IpcHandle{});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error_code(), ErrorCode::invalid_argument);
}

TEST_P(AnyBackend, CountsSharedMemory) {
  const std::size_t before = backend_->memory().used;
  auto shared = std::move(backend_->allocate_shared(1 << 20)).value();
  EXPECT_GE(backend_->memory().used, before + (1 << 20));
  shared.reset();
  EXPECT_EQ(backend_->memory().used, before);
  const auto refused = backend_->allocate_shared(backend_->memory().total + 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().error_code(), ErrorCode::unavailable);
}

// ---- pinned memory

TEST_P(AnyBackend, PinsMemoryThatIsGivenToItOnce) {
  Bytes memory(3 * 4096);
  const auto all = std::span(memory);
  {
    const auto pinned = std::move(backend_->pin(all.subspan(4096, 4096))).value();
    EXPECT_EQ(pinned->memory().data(), memory.data() + 4096);
    EXPECT_EQ(pinned->memory().size(), 4096u);
    for (const auto overlapping : {all.subspan(4096, 4096), all.subspan(0, 4097),
                                   all.subspan(8191, 10), all.subspan(5000, 1), all}) {
      const auto again = backend_->pin(overlapping);
      ASSERT_FALSE(again);
      EXPECT_EQ(again.error().error_code(), ErrorCode::invalid_argument);
    }
  }
  EXPECT_TRUE(backend_->pin(all)) << "unpinned since";
}

TEST_P(AnyBackend, PinsNeighboursAndCopiesAcrossThem) {
  const Pages pages(4);
  const auto part = [&](std::size_t first, std::size_t count) {
    return pages.bytes().subspan(first * Pages::kPage, count * Pages::kPage);
  };
  const auto middle = backend_->pin(part(1, 1));
  const auto before = backend_->pin(part(0, 1));
  const auto after = backend_->pin(part(2, 1));
  EXPECT_TRUE(middle);
  EXPECT_TRUE(before);
  EXPECT_TRUE(after);
  // The last page is not pinned.
  const auto buffer = allocate(pages.bytes().size() - 200);
  const auto most = pages.bytes().subspan(100, buffer->size());
  EXPECT_TRUE(stream_->copy_in(*buffer, 0, most).ok());
  EXPECT_EQ(content(*buffer), Bytes(most.begin(), most.end()));
  pages.fill(99);
  const Bytes changed = pages.copy();
  EXPECT_TRUE(stream_->copy_in(*buffer, 0, most).ok());
  EXPECT_TRUE(stream_->synchronize().ok());
  std::ranges::fill(pages.bytes(), std::byte{0});
  EXPECT_TRUE(stream_->copy_out(most, *buffer, 0).ok());
  EXPECT_TRUE(stream_->synchronize().ok());
  EXPECT_TRUE(std::equal(most.begin(), most.end(), changed.begin() + 100));
}

TEST_P(AnyBackend, PinsNoMemoryThatIsNone) {
  const auto pinned = backend_->pin({});
  ASSERT_FALSE(pinned);
  EXPECT_EQ(pinned.error().error_code(), ErrorCode::invalid_argument);
}

// ---- device memory

TEST_P(AnyBackend, GivesBuffersThatDoNotOverlap) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (unsigned i = 0; i < 40; ++i) {
    buffers.push_back(allocate(i * 97));
    const Bytes given = some_bytes(i * 97, i);
    EXPECT_TRUE(stream_->copy_in(*buffers[i], 0, given).ok());
    EXPECT_TRUE(stream_->synchronize().ok());
  }
  for (unsigned i = 0; i < 40; ++i) EXPECT_EQ(content(*buffers[i]), some_bytes(i * 97, i));
}

TEST_P(AnyBackend, CountsItsMemoryAndUsesItAgain) {
  const std::size_t before = backend_->memory().used;
  auto buffer = allocate(1 << 20);
  EXPECT_GE(backend_->memory().used, before + (1 << 20));
  EXPECT_LE(backend_->memory().used, backend_->memory().total);
  buffer.reset();
  EXPECT_TRUE(stream_->synchronize().ok());
  EXPECT_EQ(backend_->memory().used, before);
  const std::size_t held = backend_->memory().used + backend_->memory().pooled;
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(allocate(1 << 20));
    EXPECT_TRUE(stream_->synchronize().ok());
  }
  EXPECT_LE(backend_->memory().used + backend_->memory().pooled, held);
}

TEST_P(AnyBackend, SaysWhenMemoryIsShort) {
  for (const std::size_t more :
       {std::size_t{1}, std::numeric_limits<std::size_t>::max() - backend_->memory().total}) {
    const auto buffer = stream_->allocate(backend_->memory().total + more);
    ASSERT_FALSE(buffer);
    EXPECT_EQ(buffer.error().error_code(), ErrorCode::unavailable);
    EXPECT_THAT(buffer.error().what(), HasSubstr(std::to_string(backend_->memory().total)));
  }
  EXPECT_TRUE(backend_->healthy()) << "not an error of the device";
  EXPECT_TRUE(allocate(100));
}

TEST_P(AnyBackend, LetsObjectsGoInAnyOrder) {
  Bytes memory(4096);
  auto event = std::move(backend_->make_event()).value();
  auto pinned = std::move(backend_->pin(memory)).value();
  auto buffer = allocate(100);
  EXPECT_TRUE(stream_->record(*event).ok());
  stream_.reset();
  backend_.reset();
  EXPECT_TRUE(event->synchronize().ok());
  EXPECT_EQ(pinned->memory().size(), 4096u);
  EXPECT_EQ(buffer->size(), 100u);
}

TEST_P(AnyBackend, IntroducesItself) {
  EXPECT_FALSE(backend_->device().name.empty());
  EXPECT_GE(backend_->device().ordinal, -1);
  EXPECT_TRUE(backend_->healthy());
}

}  // namespace
}  // namespace forge::gpu
