// A worker with a device: how tensors get there and back, when calls are answered, what is kept for
// how long. The device does its work late, so that whatever does not wait for it is found out.
#include <forge/device.h>
#include <forge/plugin.h>
#include <forge/task.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gpu/host_backend.h"
#include "replicas/device_lane.h"
#include "tests/gpu/late_device.h"
#include "tests/replicas/device_actor.h"
#include "tests/replicas/worker_thread.h"

namespace forge::replicas {

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace tests;  // NOLINT(google-build-using-namespace): endpoints and all

Values values_of(const Tensor& tensor) {
  const auto values = tensor.span<const std::int64_t>();
  return {values.begin(), values.end()};
}
void fill(Tensor& tensor, std::int64_t first) {
  const auto values = tensor.span<std::int64_t>();
  std::iota(values.begin(), values.end(), first);
}
Tensor ramp(std::int64_t first, std::int64_t count) {
  Tensor tensor(DType::i64, {count});
  fill(tensor, first);
  return tensor;
}
Values twice(const Tensor& tensor) {
  Values values = values_of(tensor);
  for (std::int64_t& value : values) value *= 2;
  return values;
}

struct Started {
  explicit Started(LateDevice spec = {}, std::uint32_t calls = 4, std::size_t answers = 4 << 20)
      : device(spec), worker({.answer_bytes = answers, .calls = calls, .backend = [this] {
                                return Result<std::unique_ptr<gpu::Backend>>(
                                    std::make_unique<LateBackend>(device));
                              }}) {
    worker.start_actor("Device").value();
  }
  /// Rows of one slab.
  std::vector<Tensor> rows(const Tensor& slab) {
    std::vector<Tensor> all;
    for (std::size_t i = 0; i < detail::rows(slab); ++i) all.push_back(detail::row(slab, i));
    return all;
  }
  template <class R>
  std::vector<R> answers(std::size_t count) {
    std::vector<R> all;
    for (std::size_t i = 0; i < count; ++i) all.push_back(worker.wait().value<R>());
    return all;
  }
  LateDevice device;
  WorkerThread worker;
};

// ---- arguments

TEST(DeviceWorker, BringsTensorsAtAnyDepthToTheDevice) {
  Started started;
  const Nest nest{ramp(0, 8), {ramp(8, 8), std::nullopt}, {{"a", ramp(16, 3)}, {"b", Tensor()}}};
  EXPECT_THAT(started.worker.call<Values>(kDevices, nest), ElementsAre(0, 0, -2, 0, 0));
}

TEST(DeviceWorker, RunsKernelsBehindTheirArgumentsAndAnswersBehindThem) {
  Started started({.looks_per_step = 3});
  for (int i = 0; i < 50; ++i) {
    const Tensor in = ramp(i, 1 + i % 17);
    EXPECT_EQ(values_of(started.worker.call<Tensor>(kTwice, in)), twice(in));
  }
}

TEST(DeviceWorker, BringsRowsThatAdjoinInOneCopy) {
  Started started;
  Tensor slab = started.worker.in_arena(DType::i64, {4, 10});
  fill(slab, 0);
  started.worker.send_batch(kSums, started.rows(slab));
  for (int i = 0; i < 4; ++i) {
    const Tensor sum = started.worker.wait().value<Tensor>();
    EXPECT_THAT(values_of(sum), ElementsAre(100 * i + 45));
    EXPECT_TRUE(sum.shape().empty());
  }
  started.worker.stop();
  EXPECT_EQ(started.device.copies_in, 1u);
  EXPECT_EQ(started.device.gathers, 0u);
  EXPECT_EQ(started.device.copies_out, 1u) << "all answers of a batch leave together";
}

TEST(DeviceWorker, GathersRowsWithHolesBetweenThem) {
  Started started;
  Tensor slab = started.worker.in_arena(DType::i64, {6, 8});
  fill(slab, 0);
  const std::vector<Tensor> rows = started.rows(slab);
  started.worker.send_batch(kSums, std::vector<Tensor>{rows[5], rows[0], rows[2], rows[3]});
  Values sums;
  for (const Tensor& sum : started.answers<Tensor>(4)) sums.push_back(values_of(sum).front());
  EXPECT_THAT(sums, ElementsAre(5 * 64 + 28, 28, 2 * 64 + 28, 3 * 64 + 28));
  EXPECT_THAT(started.worker.call<Values>(kBatches), ElementsAre(4));
  started.worker.stop();
  EXPECT_EQ(started.device.gathers, 1u);
  EXPECT_EQ(started.device.pieces, 3u) << "two of them adjoin";
}

TEST(DeviceWorker, LeavesNeighboursUntouched) {
  Started started;
  Tensor slab = started.worker.in_arena(DType::i64, {4, 10});
  fill(slab, 0);
  const std::vector<Tensor> rows = started.rows(slab);
  started.worker.send_batch(kSame, std::vector<Tensor>{rows[1], rows[3]});
  EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), values_of(rows[1]));
  EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), values_of(rows[3]));
  EXPECT_EQ(values_of(slab), values_of(ramp(0, 40)));
}

TEST(DeviceWorker, StacksWhatIsOnTheDeviceThere) {
  Started started;
  const std::vector<Tensor> parts{ramp(0, 3), ramp(10, 3), ramp(20, 3)};
  const Tensor all = started.worker.call<Tensor>(kJoined, parts);
  EXPECT_THAT(all.shape(), ElementsAre(3, 3));
  EXPECT_THAT(values_of(all), ElementsAre(0, 1, 2, 10, 11, 12, 20, 21, 22));
}

// ---- results

TEST(DeviceWorker, TakesResultsAtAnyDepthFromTheDevice) {
  Started started({.looks_per_step = 2});
  const Nest nest{ramp(1, 4), {ramp(8, 2), std::nullopt}, {{"a", ramp(16, 3)}}};
  const Nest back = started.worker.call<Nest>(kNested, nest);
  EXPECT_THAT(values_of(back.first), ElementsAre(2, 4, 6, 8));
  EXPECT_THAT(values_of(*back.others[0]), ElementsAre(8, 9));
  EXPECT_FALSE(back.others[1]);
  EXPECT_THAT(values_of(back.named.at("a")), ElementsAre(16, 17, 18));
}

TEST(DeviceWorker, AnswersOutOfHostMemoryToo) {
  Started started;
  EXPECT_THAT(values_of(started.worker.call<Tensor>(kOnHost, std::int64_t{5})), ElementsAre(5));
}

TEST(DeviceWorker, KeepsTheMemoryOfOtherLibrariesUntilItHasLeft) {
  Started started({.looks_per_step = 5});
  for (std::int64_t i = 0; i < 20; ++i) started.worker.send(kForeign, i);
  for (std::int64_t i = 0; i < 20; ++i)
    EXPECT_THAT(values_of(started.worker.wait().value<Tensor>()), ElementsAre(i));
}

TEST(DeviceWorker, RefusesResultsOfAnotherDevice) {
  Started started;
  try {
    started.worker.call<Tensor>(kElsewhere);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_THAT(error.what(), HasSubstr("device 1"));
  }
}

TEST(DeviceWorker, RefusesAResultThatDoesNotFitAnswerMemory) {
  Started started({}, 4, 1 << 20);
  EXPECT_THROW(started.worker.call<Tensor>(kLarge, std::int64_t{1} << 20), PayloadTooLarge);
  const Tensor in = ramp(0, 4);
  EXPECT_EQ(values_of(started.worker.call<Tensor>(kTwice, in)), twice(in));
}

TEST(DeviceWorker, CopiesToHostAndDeviceWhenAsked) {
  Started started;
  const Tensor in = ramp(3, 9);
  EXPECT_EQ(values_of(started.worker.call<Tensor>(kThereAndBack, in)), twice(in));
}

// ---- overlap

TEST(DeviceWorker, StartsTheNextCallWhileTheDeviceIsBusy) {
  Started started({.looks_per_step = 8});
  std::deque<std::pair<std::uint32_t, Tensor>> sent;
  for (int i = 0; i < 40; ++i) {
    Tensor in = ramp(i, 64);
    sent.emplace_back(started.worker.send(kTwice, in).entry, in);
  }
  for (const auto& [entry, in] : sent) {
    Reply reply = started.worker.wait();
    EXPECT_EQ(reply.id.entry, entry) << "answers come in the order of calls";
    EXPECT_EQ(values_of(reply.value<Tensor>()), twice(in));
  }
  const Values counts = started.worker.call<Values>(kCounts);
  EXPECT_EQ(counts[0], 40);
  EXPECT_GE(counts[1], 2) << "kernels of several calls waited at once";
  EXPECT_LE(counts[1], 4) << "and no more than calls may run at once";
}

TEST(DeviceWorker, RunsOneCallAtATimeWhereThatIsTheLimit) {
  Started started({.looks_per_step = 5}, 1);
  for (int i = 0; i < 20; ++i) started.worker.send(kTwice, ramp(i, 8));
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), twice(ramp(i, 8)));
  EXPECT_EQ(started.worker.call<Values>(kCounts)[1], 1);
}

TEST(DeviceWorker, AnswersCallsWithoutTensorsInOrderToo) {
  Started started({.looks_per_step = 10});
  const auto first = started.worker.send(kTwice, ramp(0, 8));
  const auto second = started.worker.send(kCounts);
  EXPECT_EQ(started.worker.wait().id, first);
  EXPECT_EQ(started.worker.wait().id, second);
}

TEST(DeviceWorker, AnswersWhatIsUnderWayBeforeItStops) {
  Started started({.looks_per_step = 1'000'000});
  for (int i = 0; i < 3; ++i) started.worker.send(kTwice, ramp(i, 8));
  EXPECT_EQ(started.worker.stop(), 0);
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), twice(ramp(i, 8)));
}

TEST(DeviceWorker, RefillsTheArenaOnlyWhenItsBytesHaveArrived) {
  // The blocks of answered calls are used again at once.
  Started started({.looks_per_step = 7});
  std::deque<Tensor> sent;
  for (int i = 0; i < 300; ++i) {
    sent.push_back(ramp(1000 * i, 512));
    started.worker.send(kTwice, sent.back());
    if (sent.size() < 6) continue;
    EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), twice(sent.front()));
    sent.pop_front();
  }
  for (; !sent.empty(); sent.pop_front())
    EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), twice(sent.front()));
}

// ---- coroutines

TEST(DeviceWorker, ResumesATaskWhenItsStreamIsDone) {
  Started started({.looks_per_step = 6});
  std::map<std::uint32_t, Tensor> sent;
  for (int i = 0; i < 30; ++i) {
    Tensor in = ramp(i, 16);
    sent[started.worker.send(kTwiceLater, in).entry] = in;
  }
  for (int i = 0; i < 30; ++i) {
    Reply reply = started.worker.wait();
    EXPECT_EQ(values_of(reply.value<Tensor>()), twice(sent.at(reply.id.entry)));
  }
}

TEST(DeviceWorker, RunsBatchesThatAreTasks) {
  Started started({.looks_per_step = 5});
  Tensor slab = started.worker.in_arena(DType::i64, {3, 4});
  fill(slab, 0);
  started.worker.send_batch(kSumsLater, started.rows(slab));
  EXPECT_THAT(started.answers<std::int64_t>(3), ElementsAre(6, 22, 38));
}

// ---- graphs

TEST(DeviceWorker, CapturesAGraphForEachBucketAndReplaysIt) {
  Started started({.looks_per_step = 3});
  for (const std::int64_t n : {1, 2, 5, 8, 2, 7, 1}) {
    const Tensor in = ramp(n, n);
    EXPECT_EQ(values_of(started.worker.call<Tensor>(kByGraph, in)), twice(in)) << n;
  }
  const Values counts = started.worker.call<Values>(kCounts);
  EXPECT_EQ(counts[2], 4) << "each bucket is run once and captured once";
  EXPECT_EQ(counts[3], 2);
  started.worker.stop();
  EXPECT_EQ(started.device.captures, 2u);
  EXPECT_EQ(started.device.launches, 5u);
}

// ---- memory

TEST(DeviceWorker, KeepsWhatTheActorKeeps) {
  Started started;
  for (int i = 0; i < 5; ++i) started.worker.call<void>(kKeep, ramp(i, 4));
  for (int i = 0; i < 30; ++i) started.worker.call<Tensor>(kTwice, ramp(100, 4));
  EXPECT_EQ(started.worker.call<std::int64_t>(kKeptSum), 5 * 6 + 4 * (0 + 1 + 2 + 3 + 4));
}

TEST(DeviceWorker, FreesWhatKernelsUseOnlyBehindThem) {
  Started started({.looks_per_step = 10, .oldest_first = true});
  for (int i = 0; i < 20; ++i) {
    started.worker.call<void>(kKeep, ramp(i, 300));
    EXPECT_EQ(values_of(started.worker.call<Tensor>(kDropKept)), twice(ramp(i, 300)));
  }
}

TEST(DeviceWorker, GivesDeviceMemoryBack) {
  Started started;
  for (int i = 0; i < 200; ++i) started.worker.call<Tensor>(kTwice, ramp(0, 512));
  started.worker.stop();
  EXPECT_LE(started.device.most_used, 10u * 4096) << "a few calls' at once";
  EXPECT_EQ(started.device.used, 0u);
}

TEST(DeviceWorker, WaitsForMemoryThatCallsUnderWayStillUse) {
  // Room for the arguments and results of one call, and a little.
  Started started({.looks_per_step = 20, .memory = 2 * 4096 + 64});
  for (int i = 0; i < 12; ++i) started.worker.send(kTwice, ramp(i, 512));
  for (int i = 0; i < 12; ++i)
    EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), twice(ramp(i, 512)));
}

TEST(DeviceWorker, SaysHowMuchMemoryIsMissing) {
  Started started({.memory = 1000});
  EXPECT_THROW(started.worker.call<Tensor>(kTwice, ramp(0, 512)), Unavailable);
  EXPECT_EQ(values_of(started.worker.call<Tensor>(kTwice, ramp(1, 8))), twice(ramp(1, 8)));
}

TEST(DeviceWorker, PinsArenaAndAnswerMemory) {
  Started started;
  started.worker.call<Tensor>(kTwice, ramp(0, 512));
  started.worker.call<Tensor>(kTwice, ramp(0, 50'000));  // more than is reserved at first
  started.worker.stop();
  EXPECT_GT(started.device.pinned, started.worker.arena().size() + 400'000);
}

// ---- errors

TEST(DeviceWorker, AnswersAnErrorOnceTheCallsWorkIsDone) {
  Started started({.looks_per_step = 6});
  started.worker.send(kFails, ramp(0, 512));
  started.worker.send(kTwice, ramp(7, 512));
  EXPECT_THROW(started.worker.wait().value<Tensor>(), ActorError);
  EXPECT_EQ(values_of(started.worker.wait().value<Tensor>()), twice(ramp(7, 512)));
}

TEST(DeviceWorker, FailsACallWhoseArgumentsOnlyPartlyArrive) {
  Started started({.looks_per_step = 10, .refuse_copy_in = 3});
  Tensor slab = started.worker.in_arena(DType::i64, {7, 8});
  fill(slab, 0);
  const std::vector<Tensor> rows = started.rows(slab);
  started.worker.send_batch(kSums, std::vector<Tensor>{rows[0], rows[2], rows[4], rows[6]});
  for (int i = 0; i < 4; ++i) {
    Reply reply = started.worker.wait();
    EXPECT_THROW(reply.value<Tensor>(), Unavailable);
  }
  EXPECT_THAT(started.worker.call<Values>(kBatches), ElementsAre()) << "the method did not run";
  EXPECT_EQ(values_of(started.worker.call<Tensor>(kTwice, rows[6])), twice(rows[6]));
}

TEST(DeviceWorker, DoesNotComeUpWithoutItsDevice) {
  WorkerThread worker({.backend = [] {
    return gpu::make_host_device({.uuid = "GPU-fake-1", .faults = {.busy = true}});
  }});
  const Result<void> up = worker.start_actor("Device");
  ASSERT_FALSE(up);
  EXPECT_EQ(up.error().error_code(), ErrorCode::unavailable);
  EXPECT_THAT(up.error().what(), HasSubstr("GPU-fake-1 is busy"));
  EXPECT_EQ(worker.join(), 1);
  EXPECT_EQ(worker.response_file().exit_reason.load(), shm::ExitReason::device_lost);
}

// ---- on the host

TEST(HostWorker, TreatsTheSameFunctionsAsPlainOnes) {
  WorkerThread worker;
  worker.start_actor("Anywhere").value();
  EXPECT_THAT(values_of(worker.call<Tensor>(0, ramp(1, 3))), ElementsAre(2, 4, 6));
  EXPECT_THAT(values_of(worker.call<Tensor>(1, ramp(1, 3))), ElementsAre(2, 4, 6));
}

TEST(Naps, GrowWithTheTimeTheDeviceTakes) {
  using namespace std::chrono_literals;
  EXPECT_EQ(nap_after(0ns), 20us);
  EXPECT_EQ(nap_after(80us), 20us);
  EXPECT_EQ(nap_after(800us), 100us);
  EXPECT_EQ(nap_after(1h), 500us);
}

TEST(GraphCache, RefusesBucketsThatAreNone) {
  EXPECT_THROW(GraphCache(std::vector<std::size_t>{}), InvalidArgument);
  EXPECT_THROW(GraphCache(std::vector<std::size_t>{4, 0}), InvalidArgument);
}

TEST(GraphCache, TakesTheSmallestBucketThatFits) {
  const GraphCache graphs(std::vector<std::size_t>{8, 2, 4});
  EXPECT_EQ(graphs.bucket(1), 2u);
  EXPECT_EQ(graphs.bucket(2), 2u);
  EXPECT_EQ(graphs.bucket(5), 8u);
  EXPECT_EQ(graphs.bucket(9), 9u);
}

}  // namespace

/// Written for a GPU, run without one.
class Anywhere : public ForgeActor {
 public:
  Task<Tensor> twice(Tensor in) {
    const Tensor there = context().to_device(in);
    Tensor out = context().allocate_device(DType::i64, in.shape());
    const auto from = there.span<std::int64_t>();
    std::ranges::transform(from, out.span<std::int64_t>().begin(),
                           [](std::int64_t value) { return 2 * value; });
    co_await synchronize();
    co_return context().to_host(out);
  }
  Tensor by_graph(Tensor in) {
    Tensor out = in.copy();
    graphs_.run(in.size(), [&](std::size_t) {
      for (std::int64_t& value : out.span<std::int64_t>()) value *= 2;
    });
    return out;
  }

 private:
  GraphCache graphs_;
};

FORGE_PLUGIN(m) {
  tests::register_device(m);
  m.actor<Anywhere>("Anywhere")
      .endpoint("twice", &Anywhere::twice)
      .endpoint("by_graph", &Anywhere::by_graph);
}

}  // namespace forge::replicas
