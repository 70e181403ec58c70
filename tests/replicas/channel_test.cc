// A channel and the worker at its other end, in one process. Run under ThreadSanitizer this is the
// proof that controller and worker share no byte without an order.
#include "replicas/channel.h"

#include <forge/plugin.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "replicas/manifest.h"
#include "tests/child.h"
#include "tests/random.h"
#include "tests/replicas/worker_thread.h"

namespace forge::replicas {

/// The actor of this program: one of each thing that can happen to a call.
class Probe : public ForgeActor {
 public:
  explicit Probe(std::string name) : name_(std::move(name)) {
    if (name_.empty()) throw std::invalid_argument("a probe needs a name");
  }
  Bytes echo(Bytes bytes) { return bytes; }
  std::int64_t add(std::int64_t a, std::int64_t b) { return total_ += a + b; }
  std::string where() {
    return name_ + " " + std::to_string(context().replica()) + "." +
           std::to_string(context().rank()) + " of " + std::to_string(context().procs()) +
           " life " + std::to_string(context().incarnation());
  }
  void fail(std::string text) { throw std::out_of_range(text); }
  /// Born in answer memory.
  Tensor ramp(std::int64_t first, std::int64_t count) {
    Tensor tensor = context().allocate(DType::i64, {count});
    std::iota(tensor.span<std::int64_t>().begin(), tensor.span<std::int64_t>().end(), first);
    return tensor;
  }
  /// Born on the heap, so its bytes are copied into the answer.
  Tensor heap_ramp(std::int64_t first, std::int64_t count) {
    Tensor tensor(DType::i64, {count});
    std::iota(tensor.span<std::int64_t>().begin(), tensor.span<std::int64_t>().end(), first);
    return tensor;
  }
  std::int64_t sum(Tensor tensor) {
    const auto values = std::as_const(tensor).span<std::int64_t>();
    return std::accumulate(values.begin(), values.end(), std::int64_t{0});
  }
  void keep(Tensor tensor) { kept_.push_back(std::move(tensor)); }
  std::int64_t kept_sum() {
    std::int64_t total = 0;
    for (const Tensor& tensor : kept_) total += sum(tensor);
    return total;
  }
  Tensor give_back() { return kept_.back(); }

 private:
  std::string name_;
  std::int64_t total_ = 0;
  std::vector<Tensor> kept_;
};

/// Endpoints, in the order in which FORGE_PLUGIN below names them.
enum : std::uint16_t {
  kEcho,
  kAdd,
  kWhere,
  kFail,
  kRamp,
  kHeapRamp,
  kSum,
  kKeep,
  kKeptSum,
  kGiveBack
};

namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using tests::PairSpec;
using tests::Reply;
using tests::WorkerThread;

Bytes bytes_of(std::size_t size, std::uint64_t seed) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = std::byte(seed * 7 + i);
  return bytes;
}
Tensor ramp(std::int64_t first, std::int64_t count) {
  return Probe("here").heap_ramp(first, count);
}
bool is_ramp(const Tensor& tensor, std::int64_t first, std::int64_t count) {
  const auto values = tensor.span<std::int64_t>();
  if (static_cast<std::int64_t>(values.size()) != count) return false;
  for (const std::int64_t value : values) {
    if (value != first++) return false;
  }
  return true;
}

class Started : public WorkerThread {
 public:
  explicit Started(const PairSpec& spec = {}) : WorkerThread(spec) {
    start_actor("Probe", std::string("probe")).value();
  }
};

class EachWait : public ::testing::TestWithParam<Wait> {};
INSTANTIATE_TEST_SUITE_P(Wait, EachWait, ::testing::Values(Wait::spin, Wait::adaptive, Wait::block),
                         [](const auto& one) {
                           return one.param == Wait::spin       ? "spin"
                                  : one.param == Wait::adaptive ? "adaptive"
                                                                : "block";
                         });

// ---- calls

TEST_P(EachWait, AnswersCallsInOrder) {
  Started worker({.wait = GetParam()});
  EXPECT_EQ(worker.call<std::string>(kWhere), "probe 3.0 of 1 life 7");
  std::deque<std::uint32_t> sent;
  std::int64_t total = 0;
  for (int i = 0; i < 500; ++i) {
    sent.push_back(worker.send(kAdd, std::int64_t{i}, std::int64_t{1}).entry);
    if (sent.size() < 8) continue;
    Reply reply = worker.wait();
    EXPECT_EQ(reply.id.entry, sent.front());
    sent.pop_front();
    const auto value = reply.value<std::int64_t>();
    EXPECT_GT(value, total);
    total = value;
  }
  while (!sent.empty()) {
    worker.wait();
    sent.pop_front();
  }
  EXPECT_EQ(worker.stop(), 0);
}

TEST_P(EachWait, WakesAWorkerThatSleeps) {
  Started worker({.wait = GetParam()});
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // long past any budget
    EXPECT_EQ(worker.call<Bytes>(kEcho, bytes_of(10, 1)), bytes_of(10, 1));
  }
}

TEST(Channel, CarriesBytesOfAllSizes) {
  Started worker;
  for (const std::size_t size : {0u, 1u, 90u, 96u, 97u, 256u, 257u, 5000u, 40'000u, 500'000u}) {
    EXPECT_EQ(worker.call<Bytes>(kEcho, bytes_of(size, size)), bytes_of(size, size)) << size;
  }
  EXPECT_EQ(worker.open_calls(), 0u);
}

TEST(Channel, CarriesErrorsWithTypeAndText) {
  Started worker;
  try {
    worker.call<void>(kFail, std::string("the text"));
    FAIL();
  } catch (const ActorError& error) {
    EXPECT_EQ(error.type(), "std::out_of_range");
    EXPECT_EQ(error.text(), "the text");
  }
  EXPECT_THROW(worker.call<void>(999), UnknownEndpoint);
  EXPECT_THROW(worker.call<std::int64_t>(kAdd, std::string("no number"), std::int64_t{1}),
               InvalidArgument);
  try {
    worker.call<void>(kFail, std::string(3000, 'x'));  // more than a slot holds
    FAIL();
  } catch (const ActorError& error) {
    EXPECT_EQ(error.text().size(), 3000u);
  }
  EXPECT_EQ(worker.call<std::int64_t>(kAdd, std::int64_t{1}, std::int64_t{2}), 3) << "it lives";
}

TEST(Channel, DoesNotExecuteWhatIsPastItsDeadline) {
  Started worker;
  const std::uint64_t started = worker.channel().started();
  worker.send_until(1, kAdd, std::int64_t{100}, std::int64_t{0});
  EXPECT_EQ(worker.wait().kind, shm::ResponseKind::expired);
  EXPECT_EQ(worker.channel().started(), started) << "it was never started";
  worker.send_until(INT64_MAX, kAdd, std::int64_t{1}, std::int64_t{0});
  EXPECT_EQ(worker.wait().value<std::int64_t>(), 1);
}

TEST(Channel, MarksCallsAsStartedByPosition) {
  WorkerThread worker;
  EXPECT_EQ(worker.channel().started(), 0u);
  EXPECT_TRUE(worker.start_actor("Probe", std::string("probe")));
  EXPECT_EQ(worker.channel().started(), 1u);
  for (std::uint64_t i = 0; i < 3; ++i) {
    worker.call<Bytes>(kEcho, Bytes{});
    EXPECT_EQ(worker.channel().started(), 2 + i);
    EXPECT_EQ(worker.channel().outstanding(), 0u);
  }
}

TEST(Channel, TakesAFullWindowAndNotOneMore) {
  WorkerThread worker;
  shm::RequestSlot slot{};
  slot.kind = shm::RequestKind::call;
  slot.deadline_ns = 1;
  for (std::uint64_t i = 0; i < shm::kWindow; ++i) {
    ASSERT_TRUE(worker.channel().has_room());
    EXPECT_EQ(worker.channel().push(slot), i);
  }
  EXPECT_FALSE(worker.channel().has_room());
  EXPECT_EQ(worker.channel().outstanding(), shm::kWindow);
  worker.start();
  shm::ResponseSlot answer;
  for (std::uint64_t i = 0; i < shm::kWindow; ++i) {
    while (!worker.channel().pop(answer)) ::sched_yield();
    EXPECT_EQ(answer.kind, shm::ResponseKind::expired);
    EXPECT_EQ(worker.channel().outstanding(), shm::kWindow - i - 1);
  }
  EXPECT_TRUE(worker.channel().has_room());
  EXPECT_FALSE(worker.channel().pop(answer));
  EXPECT_EQ(worker.channel().violation(), nullptr);
}

// ---- tensors and answer memory

TEST(Channel, CarriesTensorsBothWays) {
  Started worker;
  EXPECT_EQ(worker.call<std::int64_t>(kSum, ramp(0, 1000)), 499'500);
  const std::byte* first = worker.responses().data();
  for (const std::uint16_t endpoint : {kRamp, kHeapRamp}) {
    const auto tensor = worker.call<Tensor>(endpoint, std::int64_t{5}, std::int64_t{10'000});
    EXPECT_TRUE(is_ramp(tensor, 5, 10'000));
    EXPECT_TRUE(tensor.frozen());
    EXPECT_GE(tensor.bytes().data(), first) << "a view of answer memory, not a copy";
    EXPECT_LT(tensor.bytes().data(), first + worker.responses().size());
  }
}

TEST(Channel, CarriesEmptyTensors) {
  Started worker;
  EXPECT_EQ(worker.call<std::int64_t>(kSum, ramp(0, 0)), 0);
  for (const std::uint16_t endpoint : {kRamp, kHeapRamp}) {
    EXPECT_EQ(worker.call<Tensor>(endpoint, std::int64_t{5}, std::int64_t{0}).size(), 0u);
  }
}

TEST(Channel, KeepsTensorsWhileTheyAreHeldAndTakesTheirMemoryBackAfterwards) {
  auto random = tests::seeded();
  Started worker;  // 4 MiB of answers; 60 MiB go through
  std::map<std::int64_t, Tensor> held;
  for (std::int64_t i = 0; i < 3000; ++i) {
    const auto count = static_cast<std::int64_t>(1 + tests::below(random, 5000));
    const std::uint16_t endpoint = tests::below(random, 2) == 0 ? kRamp : kHeapRamp;
    held[i] = worker.call<Tensor>(endpoint, i, count);
    ASSERT_TRUE(is_ramp(held[i], i, count));
    if (held.size() < 20) continue;
    auto oldest = held.begin();
    std::advance(oldest, tests::below(random, held.size()));
    ASSERT_TRUE(
        is_ramp(oldest->second, oldest->first, static_cast<std::int64_t>(oldest->second.size())))
        << "somebody wrote into a tensor that is held";
    held.erase(oldest);
  }
}

TEST(Channel, SaysThatAnswerMemoryIsFullAndGoesOnOnceTensorsAreDropped) {
  Started worker({.answer_bytes = std::size_t{1} << 20});
  std::vector<Tensor> held;
  bool full = false;
  for (std::int64_t i = 0; i < 20 && !full; ++i) {
    try {
      held.push_back(worker.call<Tensor>(kRamp, i, std::int64_t{12'000}));
    } catch (const Backpressure& error) {
      full = true;
      EXPECT_THAT(error.what(), AllOf(HasSubstr("answer memory"), HasSubstr("drop")));
    }
  }
  EXPECT_TRUE(full);
  EXPECT_EQ(worker.call<Bytes>(kEcho, bytes_of(50, 1)), bytes_of(50, 1)) << "small ones still fit";
  for (std::size_t i = 0; i < held.size(); ++i) {
    EXPECT_TRUE(is_ramp(held[i], static_cast<std::int64_t>(i), 12'000));
  }
  held.clear();
  EXPECT_TRUE(
      is_ramp(worker.call<Tensor>(kRamp, std::int64_t{1}, std::int64_t{12'000}), 1, 12'000));
}

TEST(Channel, GivesTheActorACopyOfARequestTensorThatItKeeps) {
  Started worker;
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < 30; ++i) {
    worker.call<void>(kKeep, ramp(i, 500));
    total += 500 * i + 499 * 250;
    // The same arena bytes are used again at once.
    EXPECT_EQ(worker.call<std::int64_t>(kSum, ramp(7 * i, 500)), 500 * 7 * i + 499 * 250);
    EXPECT_EQ(worker.call<std::int64_t>(kKeptSum), total);
  }
  EXPECT_TRUE(is_ramp(worker.call<Tensor>(kGiveBack), 29, 500));
}

TEST(Channel, TakesTensorsThatAreDroppedOnOtherThreads) {
  Started worker;
  std::vector<std::thread> readers;
  for (std::int64_t i = 0; i < 200; ++i) {
    auto tensor = worker.call<Tensor>(kRamp, i, std::int64_t{9000});
    readers.emplace_back([i, mine = std::move(tensor)]() mutable {
      EXPECT_TRUE(is_ramp(mine, i, 9000));
      mine = Tensor();
    });
    if (readers.size() < 8) continue;
    readers.front().join();
    readers.erase(readers.begin());
  }
  for (auto& reader : readers) reader.join();
}

TEST(Channel, SendsReleasesThatDoNotFitTheRingLater) {
  WorkerThread pair;  // its worker never starts: the test plays it
  shm::RequestFile& file = pair.request_file();
  shm::RingConsumer<std::uint64_t> releases(file.releases, shm::kReleases, file.releases_tail,
                                            pair.response_file().releases_head);
  std::vector<bool> seen(3000);
  for (std::uint64_t i = 0; i < seen.size(); ++i) pair.channel().answers()->released().put(i);
  std::size_t rounds = 0;
  for (std::size_t taken = 0; taken < seen.size(); ++rounds) {
    pair.channel().flush_releases();
    ASSERT_TRUE(releases.ready());
    while (const std::uint64_t* offset = releases.front()) {
      EXPECT_FALSE(seen[*offset]) << *offset;
      seen[*offset] = true;
      releases.pop();
      ++taken;
    }
  }
  EXPECT_EQ(rounds, 3u) << "1024 at a time";
  pair.channel().flush_releases();
  EXPECT_FALSE(releases.ready());
}

// ---- everything at once

/// What is out: how to check its answer.
struct Expected {
  std::uint16_t endpoint;
  std::int64_t first;
  std::int64_t count;
};

void check(Reply& reply, const Expected& expected, std::map<std::int64_t, Tensor>& held) {
  switch (expected.endpoint) {
    case kEcho:
      ASSERT_EQ(reply.value<Bytes>(), bytes_of(static_cast<std::size_t>(expected.count),
                                               static_cast<std::uint64_t>(expected.first)));
      break;
    case kFail:
      ASSERT_THROW(reply.value<void>(), ActorError);
      break;
    case kSum:
      ASSERT_EQ(reply.value<std::int64_t>(),
                expected.count * expected.first + expected.count * (expected.count - 1) / 2);
      break;
    default: {
      auto tensor = reply.value<Tensor>();
      ASSERT_TRUE(is_ramp(tensor, expected.first, expected.count));
      held[expected.first] = std::move(tensor);
    }
  }
}

TEST_P(EachWait, SurvivesAMixOfEverything) {
  auto random = tests::seeded();
  constexpr std::int64_t kCalls = 5000;
  Started worker({.wait = GetParam()});
  std::map<std::uint32_t, Expected> out;
  std::map<std::int64_t, Tensor> held;
  std::size_t window = 1;
  for (std::int64_t i = 0; i < kCalls || !out.empty();) {
    if (tests::below(random, 100) == 0) window = 1 + tests::below(random, 40);
    if (i < kCalls && out.size() < window) {
      Expected expected{kEcho, i, static_cast<std::int64_t>(tests::below(random, 3000))};
      constexpr std::uint16_t kSome[] = {kEcho, kFail, kSum, kRamp, kHeapRamp};
      expected.endpoint = kSome[tests::below(random, std::size(kSome))];
      shm::RequestId id{};
      if (expected.endpoint == kEcho) {
        id = worker.send(kEcho, bytes_of(static_cast<std::size_t>(expected.count),
                                         static_cast<std::uint64_t>(i)));
      } else if (expected.endpoint == kFail) {
        id = worker.send(kFail, std::string(static_cast<std::size_t>(expected.count), 'x'));
      } else if (expected.endpoint == kSum) {
        id = worker.send(kSum, ramp(i, expected.count));
      } else {
        id = worker.send(expected.endpoint, i, expected.count);
      }
      ASSERT_TRUE(out.emplace(id.entry, expected).second);
      ++i;
    } else {
      Reply reply = worker.wait();
      ASSERT_EQ(out.count(reply.id.entry), 1u);
      ASSERT_NO_FATAL_FAILURE(check(reply, out.at(reply.id.entry), held));
      out.erase(reply.id.entry);
    }
    while (held.size() > 10) {
      const auto& [first, tensor] = *held.begin();
      ASSERT_TRUE(is_ramp(tensor, first, static_cast<std::int64_t>(tensor.size())));
      held.erase(held.begin());
    }
  }
  EXPECT_EQ(worker.open_calls(), 0u);
  EXPECT_EQ(worker.stop(), 0);
}

// ---- who is rung

/// The poller word as the controller writes it: its `count`th parking.
std::uint32_t parking(std::uint32_t count, shm::Poller poller) {
  return count << shm::kPollerBits | static_cast<std::uint32_t>(poller);
}

TEST(Channel, RingsWhoeverIsParkedOncePerParking) {
  Started worker;
  auto& poller = worker.arena_header().poller;
  const auto rings = [&] {
    return std::pair(worker.channel().caller_bell().load(), worker.channel().engine_bell().load());
  };
  const auto call = [&](int times) {
    for (int i = 0; i < times; ++i) worker.call<Bytes>(kEcho, Bytes{});
    worker.call<Bytes>(kEcho, Bytes{});  // by its answer, the rings of those before have been heard
  };
  using Rings = std::pair<std::uint32_t, std::uint32_t>;
  call(3);
  EXPECT_EQ(rings(), Rings(0, 0)) << "everybody is awake";
  poller.store(parking(1, shm::Poller::caller));
  call(3);
  EXPECT_EQ(rings(), Rings(1, 0));
  poller.store(parking(2, shm::Poller::caller));
  call(3);
  EXPECT_EQ(rings(), Rings(2, 0));
  poller.store(parking(3, shm::Poller::engine));
  call(3);
  EXPECT_EQ(rings(), Rings(2, 1));
  poller.store(parking(4, shm::Poller::awake));
  call(3);
  EXPECT_EQ(rings(), Rings(2, 1));
}

TEST_P(EachWait, LosesNoWakeupOfACallerThatParks) {
  Started worker({.wait = GetParam()});
  auto& poller = worker.arena_header().poller;
  shm::Word& bell = worker.channel().caller_bell();
  for (std::uint32_t i = 1; i <= 1000; ++i) {
    worker.send(kEcho, Bytes{});
    shm::ResponseSlot slot;
    while (!worker.channel().pop(slot)) {
      const std::uint32_t seen = bell.load(std::memory_order_relaxed);
      poller.store(parking(i, shm::Poller::caller), std::memory_order_relaxed);
      shm::handshake_fence();
      if (!worker.channel().maybe_ready()) {
        shm::futex_wait(bell, seen, std::nullopt, shm::Scope::shared);
      }
      poller.store(parking(i, shm::Poller::awake), std::memory_order_relaxed);
    }
    worker.receive(slot);
  }
}

// ---- start and end

TEST(Channel, SetupSaysWhyThereIsNoActor) {
  {
    WorkerThread worker;
    const auto result = worker.start_actor("Robe", std::string("x"));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), "unknown_actor");
    EXPECT_THAT(result.error().what(), AllOf(HasSubstr("Robe"), HasSubstr("Probe")));
    EXPECT_EQ(worker.join(), 1);
    EXPECT_EQ(worker.channel().exit_reason(), shm::ExitReason::setup_failed);
  }
  {
    WorkerThread worker;
    const auto result = worker.start_actor("Probe", std::string());
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), "actor_error");
    EXPECT_THAT(result.error().what(), HasSubstr("a probe needs a name"));
    EXPECT_EQ(worker.join(), 1);
  }
  {
    WorkerThread worker;
    EXPECT_FALSE(worker.start_actor("Probe"));
    EXPECT_EQ(worker.join(), 1);
  }
}

TEST(Channel, SetupSaysWhyEvenWithoutAnswerMemory) {
  // In a process of its own: what must not happen here is that the worker dies of its own answer.
  tests::Child child([] {
    WorkerThread worker({.answer_bytes = 4096});
    const auto result = worker.start_actor("Probe", std::string());
    return !result && result.error().code() == "actor_error" && worker.join() == 1 ? 0 : 1;
  });
  EXPECT_EQ(child.join(), 0);
}

TEST_P(EachWait, StopsAfterWhatWasBeforeItInTheRing) {
  Started worker({.wait = GetParam()});
  for (int i = 0; i < 10; ++i) worker.send(kAdd, std::int64_t{1}, std::int64_t{0});
  EXPECT_EQ(worker.channel().exit_reason(), shm::ExitReason::none);
  EXPECT_EQ(worker.stop(), 0);
  EXPECT_EQ(worker.channel().exit_reason(), shm::ExitReason::stopped);
  for (int i = 1; i <= 10; ++i) EXPECT_EQ(worker.wait().value<std::int64_t>(), i);
}

TEST_P(EachWait, LeavesWhenTheRequestRingIsCorrupt) {
  Started worker({.wait = GetParam()});
  worker.call<Bytes>(kEcho, Bytes{});
  worker.request_file().requests_tail.position.store(1'000'000);
  while (worker.channel().exit_reason() == shm::ExitReason::none) {
    worker.channel().wake_worker();
    ::sched_yield();
  }
  EXPECT_EQ(worker.join(), 1);
  EXPECT_EQ(worker.channel().exit_reason(), shm::ExitReason::bad_layout);
}

TEST(Channel, WorkerReadsNoRequestOutsideOfTheArena) {
  Started worker;
  const std::uint64_t size = worker.arena().size();
  struct {
    std::uint64_t block;
    std::uint64_t block_size;
    std::uint32_t head_size;
  } const lies[] = {{size + 1, 0, 0},          {size - 64, 65, 10}, {~std::uint64_t{0}, 1, 1},
                    {0, ~std::uint64_t{0}, 1}, {4096, 64, 65},      {4096, 0, 1}};
  for (const auto& lie : lies) {
    shm::RequestSlot slot{};
    slot.kind = shm::RequestKind::call;
    slot.endpoint = kEcho;
    slot.block = lie.block;
    slot.block_size = lie.block_size;
    slot.head_size = lie.head_size;
    slot.batch = 1;
    worker.push(slot);
    shm::ResponseSlot answer;
    while (!worker.channel().pop(answer)) ::sched_yield();
    EXPECT_EQ(answer.kind, shm::ResponseKind::error) << lie.block;
    if (answer.block != 0) worker.channel().answers()->released().put(answer.block);
  }
  EXPECT_EQ(worker.call<Bytes>(kEcho, Bytes{}), Bytes{});
}

}  // namespace
}  // namespace forge::replicas

FORGE_PLUGIN(m) {
  using forge::replicas::Probe;
  m.actor<Probe, std::string>("Probe", "Does one of each thing.")
      .endpoint("echo", &Probe::echo)
      .endpoint("add", &Probe::add)
      .endpoint("where", &Probe::where)
      .endpoint("fail", &Probe::fail)
      .endpoint("ramp", &Probe::ramp)
      .endpoint("heap_ramp", &Probe::heap_ramp)
      .endpoint("sum", &Probe::sum)
      .endpoint("keep", &Probe::keep)
      .endpoint("kept_sum", &Probe::kept_sum)
      .endpoint("give_back", &Probe::give_back);
}
