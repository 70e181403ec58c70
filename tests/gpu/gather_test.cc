// Gathers, the choice between their paths, and the graphs that they may become a part of.
#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "gpu/gather_measure.h"
#include "gpu/gather_plan.h"
#include "tests/gpu/backend_fixture.h"
#include "tests/random.h"

namespace forge::gpu {
namespace {

using ::testing::HasSubstr;

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

TEST_P(AnyBackend, GathersPinnedMemoryOnEveryPath) {
  auto random = tests::seeded();
  const Pages pages(64);
  const auto pinned = pin(pages);
  const HostPiece source = pages.bytes();
  for (const GatherPath path :
       {GatherPath::chosen, GatherPath::copies, GatherPath::batched, GatherPath::kernel}) {
    // More than go to a kernel at once; aligned to 16, to 4, and not at all.
    for (const std::size_t alignment : {16, 4, 1}) {
      std::vector<HostPiece> pieces;
      Bytes expected;
      for (int count = 0; count < 300; ++count) {
        const std::size_t from = tests::below(random, source.size() / alignment) * alignment;
        const std::size_t most = std::min<std::size_t>(source.size() - from, 9000) / alignment;
        const std::size_t size = tests::below(random, most + 1) * alignment;
        pieces.push_back(source.subspan(from, size));
        expected.insert(expected.end(), pieces.back().begin(), pieces.back().end());
      }
      const auto buffer = allocate(expected.size() + 64);
      EXPECT_TRUE(stream_->gather(*buffer, 16, pieces, path).ok());
      Bytes found = content(*buffer);
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), found.begin() + 16))
          << "path " << static_cast<int>(path) << ", alignment " << alignment;
    }
  }
}

TEST_P(AnyBackend, GathersMemoryOfWhichOnlySomeIsPinned) {
  const Pages pinned(2);
  const Pages other(2, 50);
  const auto region = pin(pinned);
  for (const GatherPath path :
       {GatherPath::chosen, GatherPath::copies, GatherPath::batched, GatherPath::kernel}) {
    const std::vector<HostPiece> pieces = {pinned.bytes().first(100), other.bytes().first(100),
                                           pinned.bytes().last(100)};
    const auto buffer = allocate(300);
    EXPECT_TRUE(stream_->gather(*buffer, 0, pieces, path).ok());
    Bytes expected;
    for (const HostPiece p : pieces) expected.insert(expected.end(), p.begin(), p.end());
    EXPECT_EQ(content(*buffer), expected);
  }
}

TEST_P(AnyBackend, IsMeasured) {
  const auto times = measure_gather(*backend_).value();
  EXPECT_TRUE(GatherPlan(times).has(GatherPath::copies));
  EXPECT_TRUE(backend_->pin(Pages(1).bytes())) << "it is still usable";
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

// ---- graphs

TEST_P(AnyBackend, ReplaysWhatWasCaptured) {
  const Pages given(1);
  const Pages taken(1);
  const auto pinned = pin(given);
  const auto pinned_taken = pin(taken);
  const auto in = zeros(Pages::kPage);
  const auto out = zeros(Pages::kPage);
  EXPECT_TRUE(stream_->begin_capture().ok());
  EXPECT_TRUE(stream_->capturing());
  EXPECT_TRUE(stream_->copy_in(*in, 0, given.bytes()).ok());
  EXPECT_TRUE(stream_->copy_between(*out, 0, *in, 0, Pages::kPage).ok());
  EXPECT_TRUE(stream_->copy_out(taken.bytes(), *out, 0).ok());
  const auto graph = std::move(stream_->end_capture()).value();
  EXPECT_FALSE(stream_->capturing());
  EXPECT_EQ(content(*out), Bytes(Pages::kPage)) << "captured, not done";
  for (unsigned round = 2; round < 5; ++round) {
    given.fill(round);
    EXPECT_TRUE(stream_->launch(*graph).ok());
    EXPECT_TRUE(stream_->synchronize().ok());
    EXPECT_EQ(taken.copy(), given.copy());
  }
}

TEST_P(AnyBackend, CapturesGathers) {
  const Pages pages(1);
  const auto pinned = pin(pages);
  const HostPiece source = pages.bytes();
  const auto buffer = zeros(30);
  std::vector<HostPiece> pieces = {source.first(10), source.last(20)};
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
  const Pages pages(1);
  const auto pinned = pin(pages);
  const HostPiece given = pages.bytes().first(10);
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
  EXPECT_EQ(content(*buffer), Bytes(given.begin(), given.end()));
  const auto none = stream_->end_capture();
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().error_code(), ErrorCode::invalid_argument);
}

TEST_P(AnyBackend, LetsBuffersGoDuringACapture) {
  auto dropped = allocate(1 << 20);
  const auto buffer = zeros(10);
  const Pages pages(1);
  const auto pinned = pin(pages);
  const HostPiece given = pages.bytes().first(10);
  EXPECT_TRUE(stream_->begin_capture().ok());
  dropped.reset();
  EXPECT_TRUE(stream_->copy_in(*buffer, 0, given).ok());
  const auto graph = std::move(stream_->end_capture()).value();
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(stream_->launch(*graph).ok());
  EXPECT_EQ(content(*buffer), Bytes(given.begin(), given.end()));
}

// ---- the decider

using enum GatherPath;

/// Times of all shapes on one path.
void add_times(std::vector<GatherTime>& times, GatherPath path,
               const std::function<double(double pieces, double bytes)>& ns) {
  for (const std::size_t pieces : GatherPlan::kPieces) {
    for (const std::size_t size : GatherPlan::kPieceBytes) {
      times.push_back({path, pieces, size,
                       ns(static_cast<double>(pieces), static_cast<double>(pieces * size))});
    }
  }
}

/// As vendors' figures have it: copies cost a call each, batches are slow below some 28 KiB a piece,
/// the kernel costs a launch and is slower on the bus.
std::vector<GatherTime> some_times() {
  std::vector<GatherTime> times;
  add_times(times, copies, [](double n, double bytes) { return 5000 + 2300 * n + bytes / 50; });
  add_times(times, batched,
            [](double n, double bytes) { return 6000 + bytes / (bytes / n < 28 * 1024 ? 6 : 48); });
  add_times(times, kernel, [](double, double bytes) { return 9000 + bytes / 35; });
  return times;
}

TEST(GatherPlan, TakesThePathThatIsFastestForTheShape) {
  constexpr std::size_t KiB = 1024;
  const std::vector<GatherTime> times = some_times();
  const GatherPlan plan(times);
  struct Case {
    const char* what;
    GatherShape shape;
    GatherPath path;
  };
  for (const Case& c : std::vector<Case>{
           {"a batch of rows", {.pieces = 64, .bytes = 64 * 4 * KiB, .mapped = true}, kernel},
           {"between measured shapes",
            {.pieces = 40, .bytes = 40 * 6 * KiB, .mapped = true},
            kernel},
           {"more than was measured",
            {.pieces = 999, .bytes = 999 * 4 * KiB, .mapped = true},
            kernel},
           {"not readable there", {.pieces = 64, .bytes = 64 * 1 * KiB, .mapped = false}, batched},
           {"neither", {.pieces = 64, .bytes = 64 * KiB, .capturing = true}, copies},
           {"into a graph",
            {.pieces = 64, .bytes = 64 * 64 * KiB, .mapped = true, .capturing = true},
            kernel},
           {"large pieces", {.pieces = 64, .bytes = 64 * 64 * KiB, .mapped = true}, batched},
           {"few and large", {.pieces = 2, .bytes = 2048 * KiB, .mapped = false}, batched},
           {"one piece", {.pieces = 1, .bytes = 4 * KiB, .mapped = true}, copies},
           {"nothing", {.pieces = 5, .bytes = 0, .mapped = true}, copies},
           {"no pieces", {}, copies},
       }) {
    EXPECT_EQ(plan.choose(c.shape), c.path) << c.what;
  }
}

TEST(GatherPlan, CopiesWhenNothingWasMeasured) {
  EXPECT_EQ(GatherPlan().choose({.pieces = 64, .bytes = 1 << 20, .mapped = true}), copies);
  EXPECT_EQ(GatherPlan(std::vector<GatherTime>())
                .choose({.pieces = 64, .bytes = 1 << 20, .mapped = true}),
            copies);
  EXPECT_FALSE(GatherPlan().has(copies));
}

TEST(GatherPlan, LeavesOutPathsThatWereNotMeasuredWhole) {
  std::vector<GatherTime> times = some_times();
  const GatherShape rows{.pieces = 64, .bytes = 64 * 4096, .mapped = true};
  for (const double ns : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    times.back().ns = ns;  // of the kernel
    const GatherPlan plan(times);
    EXPECT_FALSE(plan.has(kernel));
    EXPECT_TRUE(plan.has(batched));
    EXPECT_EQ(plan.choose(rows), batched);
  }
}

TEST(GatherPlan, TakesTheShortestOfSeveralTimes) {
  std::vector<GatherTime> times = some_times();
  add_times(times, kernel, [](double, double) { return 1e9; });
  times.push_back({kernel, 5, 4096, 1});  // a shape that nobody asked for
  EXPECT_EQ(GatherPlan(times).choose({.pieces = 64, .bytes = 64 * 4096, .mapped = true}), kernel);
}

}  // namespace
}  // namespace forge::gpu
