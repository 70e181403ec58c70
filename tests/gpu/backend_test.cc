// What every backend must do. A new one is a line in INSTANTIATE_TEST_SUITE_P. Work may be
// asynchronous, so nothing is looked at before its stream or event says that it is done.
#include "gpu/backend.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gpu/host_backend.h"
#include "tests/random.h"

namespace forge::gpu {
namespace {

using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;

struct Kind {
  std::string name;
  std::unique_ptr<Backend> (*make)();
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

class AnyBackend : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<Buffer> allocate(std::size_t bytes) {
    return std::move(stream_->allocate(bytes)).value();
  }
  /// All bytes of a buffer, once its stream is done.
  Bytes content(const Buffer& buffer) {
    Bytes bytes(buffer.size());
    EXPECT_TRUE(stream_->copy_out(bytes, buffer, 0).ok());
    EXPECT_TRUE(stream_->synchronize().ok());
    return bytes;
  }
  /// A buffer of so many zeros.
  std::unique_ptr<Buffer> zeros(std::size_t bytes) {
    auto buffer = allocate(bytes);
    const Bytes nothing(bytes);
    EXPECT_TRUE(stream_->copy_in(*buffer, 0, nothing).ok());
    EXPECT_TRUE(stream_->synchronize().ok());
    return buffer;
  }

  std::unique_ptr<Backend> backend_ = GetParam().make();
  std::unique_ptr<Stream> stream_ = std::move(backend_->make_stream()).value();
};

INSTANTIATE_TEST_SUITE_P(All, AnyBackend,
                         ::testing::Values(Kind{"host", [] { return make_host_backend(); }},
                                           Kind{"host_as_device",
                                                [] { return make_host_device({}).value(); }}),
                         [](const auto& test) { return test.param.name; });

Bytes some_bytes(std::size_t count, unsigned first = 1) {
  Bytes bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(first + i * 7);
  return bytes;
}

void expect_invalid(const Status& status) {
  EXPECT_EQ(status.code, ErrorCode::invalid_argument) << status.message;
}

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
  std::vector<Bytes> given;
  std::vector<Bytes> taken(16, Bytes(kSize));
  std::vector<std::unique_ptr<PinnedRegion>> pins;
  for (unsigned i = 0; i < 16; ++i) given.push_back(some_bytes(kSize, i));
  for (unsigned i = 0; i < 16; ++i) {
    pins.push_back(std::move(backend_->pin(given[i])).value());
    pins.push_back(std::move(backend_->pin(taken[i])).value());
  }
  for (unsigned i = 0; i < 16; ++i) {
    ASSERT_TRUE(stream_->copy_in(*buffer, 0, given[i]).ok());
    ASSERT_TRUE(stream_->copy_out(taken[i], *buffer, 0).ok());
  }
  EXPECT_TRUE(stream_->synchronize().ok());
  EXPECT_EQ(taken, given);
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

// ---- gather

TEST_P(AnyBackend, GathersPiecesOneBehindTheOther) {
  const Bytes source = some_bytes(1000);
  const auto piece = [&](std::size_t from, std::size_t size) {
    return HostPiece(source).subspan(from, size);
  };
  const std::vector<HostPiece> pieces = {
      piece(500, 100), piece(0, 1), {}, piece(333, 33), piece(500, 3)};
  const auto buffer = zeros(150);
  EXPECT_TRUE(stream_->gather(*buffer, 5, pieces).ok());
  Bytes expected(5);
  for (const HostPiece p : pieces) expected.insert(expected.end(), p.begin(), p.end());
  expected.resize(150);
  EXPECT_EQ(content(*buffer), expected);
}

TEST_P(AnyBackend, GathersRandomBatches) {
  auto random = tests::seeded();
  const Bytes source = some_bytes(1 << 16);
  for (int round = 0; round < 50; ++round) {
    std::vector<HostPiece> pieces;
    Bytes expected;
    for (std::uint64_t count = tests::below(random, 70); count > 0; --count) {
      const std::size_t from = tests::below(random, source.size());
      const std::size_t size = tests::below(random, std::min(source.size() - from, 2000ul) + 1);
      pieces.push_back(HostPiece(source).subspan(from, size));
      expected.insert(expected.end(), pieces.back().begin(), pieces.back().end());
    }
    const auto buffer = allocate(expected.size());
    EXPECT_TRUE(stream_->gather(*buffer, 0, pieces).ok());
    EXPECT_EQ(content(*buffer), expected);
  }
}

TEST_P(AnyBackend, RefusesBatchesThatDoNotFitAndCopiesNoneOfThem) {
  const Bytes source = some_bytes(100);
  const auto buffer = zeros(100);
  const std::vector<HostPiece> pieces = {HostPiece(source).first(60), HostPiece(source).first(41)};
  expect_invalid(stream_->gather(*buffer, 0, pieces));
  expect_invalid(stream_->gather(*buffer, 101, {}));
  EXPECT_TRUE(stream_->synchronize().ok());
  EXPECT_EQ(content(*buffer), Bytes(100));
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

// ---- graphs

TEST_P(AnyBackend, ReplaysWhatWasCaptured) {
  Bytes given = some_bytes(64, 1);
  Bytes taken(64);
  const auto in = zeros(64);
  const auto out = zeros(64);
  const auto pinned_in = backend_->pin(given);
  EXPECT_TRUE(stream_->begin_capture().ok());
  EXPECT_TRUE(stream_->capturing());
  EXPECT_TRUE(stream_->copy_in(*in, 0, given).ok());
  EXPECT_TRUE(stream_->copy_between(*out, 0, *in, 0, 64).ok());
  EXPECT_TRUE(stream_->copy_out(taken, *out, 0).ok());
  const auto graph = std::move(stream_->end_capture()).value();
  EXPECT_FALSE(stream_->capturing());
  EXPECT_EQ(content(*out), Bytes(64)) << "captured, not done";
  for (unsigned round = 2; round < 5; ++round) {
    std::ranges::copy(some_bytes(64, round), given.begin());
    EXPECT_TRUE(stream_->launch(*graph).ok());
    EXPECT_TRUE(stream_->synchronize().ok());
    EXPECT_EQ(taken, given);
  }
}

TEST_P(AnyBackend, CapturesGathers) {
  const Bytes source = some_bytes(1000);
  const auto buffer = zeros(30);
  std::vector<HostPiece> pieces = {HostPiece(source).first(10), HostPiece(source).last(20)};
  EXPECT_TRUE(stream_->begin_capture().ok());
  EXPECT_TRUE(stream_->gather(*buffer, 0, pieces).ok());
  const auto graph = std::move(stream_->end_capture()).value();
  pieces.clear();  // only the memory itself must stay
  EXPECT_TRUE(stream_->launch(*graph).ok());
  Bytes expected(source.begin(), source.begin() + 10);
  expected.insert(expected.end(), source.end() - 20, source.end());
  EXPECT_EQ(content(*buffer), expected);
}

TEST_P(AnyBackend, RefusesWhatCannotBeCaptured) {
  const auto event = std::move(backend_->make_event()).value();
  auto buffer = zeros(10);
  const Bytes given = some_bytes(10);
  EXPECT_TRUE(stream_->begin_capture().ok());
  const auto allocated = stream_->allocate(1);
  ASSERT_FALSE(allocated);
  EXPECT_EQ(allocated.error().error_code(), ErrorCode::invalid_argument);
  EXPECT_THAT(allocated.error().what(), HasSubstr("capture"));
  expect_invalid(stream_->begin_capture());
  expect_invalid(stream_->record(*event));
  expect_invalid(stream_->wait(*event));
  expect_invalid(stream_->synchronize());
  EXPECT_TRUE(stream_->copy_in(*buffer, 0, given).ok()) << "the capture goes on";
  const auto graph = std::move(stream_->end_capture()).value();
  EXPECT_TRUE(stream_->launch(*graph).ok());
  EXPECT_EQ(content(*buffer), given);
  const auto none = stream_->end_capture();
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().error_code(), ErrorCode::invalid_argument);
}

TEST_P(AnyBackend, LetsBuffersGoDuringACapture) {
  auto dropped = allocate(1 << 20);
  const auto buffer = zeros(10);
  const Bytes given = some_bytes(10);
  EXPECT_TRUE(stream_->begin_capture().ok());
  dropped.reset();
  EXPECT_TRUE(stream_->copy_in(*buffer, 0, given).ok());
  const auto graph = std::move(stream_->end_capture()).value();
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(stream_->launch(*graph).ok());
  EXPECT_EQ(content(*buffer), given);
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

TEST_P(AnyBackend, PinsNeighbours) {
  Bytes memory(4 * 4096);
  // Whole pages, because devices pin pages.
  const auto skipped = 4096 - reinterpret_cast<std::uintptr_t>(memory.data()) % 4096;
  const auto pages = std::span(memory).subspan(skipped, 3 * 4096);
  const auto middle = backend_->pin(pages.subspan(4096, 4096));
  const auto before = backend_->pin(pages.first(4096));
  const auto after = backend_->pin(pages.last(4096));
  EXPECT_TRUE(middle);
  EXPECT_TRUE(before);
  EXPECT_TRUE(after);
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
