// The face of forge with real processes: the program of CONTRACT §2, binding, meshes, errors of
// endpoints, many threads, several services, wait strategies.
#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "payloads.h"
#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// ---- the program of CONTRACT §2

class CounterProgram : public ::testing::Test {
 protected:
  Controller controller{quiet()};
  Plugin plugin = controller.load(plugin_path("counter"));
};
using TorchforgeDefect = CounterProgram;

TEST_F(CounterProgram, AServiceOfTwoReplicasCounts) {
  EXPECT_THAT(plugin.actors(), ElementsAre("Counter"));
  Service counter = plugin.actor("Counter").options({.procs = 1, .num_replicas = 2}).as_service(0);
  const auto value = counter.endpoint<std::int64_t()>("value");
  const auto add = counter.endpoint<std::int64_t(std::int64_t, std::int64_t)>("add");
  const auto incr = counter.endpoint<void()>("incr");

  EXPECT_EQ(value.route().get(), 0);
  Future<std::int64_t> later = add.route(5, 2);
  EXPECT_EQ(later.get(), 10);
  for (auto& done : incr.fanout().get()) done.value();
  std::int64_t sum = 0;
  for (const Result<std::int64_t>& one : value.fanout().get()) sum += one.value();
  EXPECT_EQ(sum, 10 + 2);

  counter.shutdown();
  EXPECT_THROW(add.route(1, 1).get(), Stopped);
}

TEST_F(CounterProgram, AServiceStartsInTheBackground) {
  Future<Service> starting = plugin.actor("Counter").as_service_async(7);
  Service counter = starting.get();
  EXPECT_EQ(counter.endpoint<std::int64_t()>("value").route().get(), 7);
  EXPECT_THROW(plugin.actor("Counter").options({.procs = 0}).as_service_async(7).get(),
               InvalidArgument);
}

TEST_F(CounterProgram, AMeshOfFourCounts) {
  ActorMesh mesh = plugin.actor("Counter").options({.procs = 4}).as_actor(5);
  EXPECT_EQ(mesh.size(), 4U);
  const auto value = mesh.endpoint<std::int64_t()>("value");
  EXPECT_EQ(value.choose().get(), 5);
  EXPECT_THAT(error_of<InvalidArgument>(value.call_one()),
              AllOf(HasSubstr("4"), HasSubstr("call()")));
  mesh.endpoint<void()>("incr").broadcast();
  const ValueMesh<std::int64_t> values = value.call().get();
  ASSERT_EQ(values.size(), 4U);
  EXPECT_EQ(values.at(3), 6);
  EXPECT_THROW(values.at(4), InvalidArgument);
  int rank = 0;
  for (const auto& [index, count] : values) {
    EXPECT_EQ(index, rank++);
    EXPECT_EQ(count, 6);
  }
  mesh.endpoint<void()>("incr").call().get();
  EXPECT_EQ(value.call().get().at(0), 7);
  mesh.shutdown();
  EXPECT_THROW(value.choose().get(), Stopped);
  EXPECT_THROW(mesh.endpoint<void()>("incr").broadcast(), Stopped);
}

TEST_F(CounterProgram, ABatchedEndpointTakesSingleCalls) {
  const Service counter = plugin.actor("Counter").as_service(0);
  const auto add_many = counter.endpoint<std::int64_t(std::int64_t)>("add_many");
  std::vector<Future<std::int64_t>> answers;
  for (int i = 1; i <= 20; ++i) answers.push_back(add_many.route(i));
  std::int64_t total = 0;
  for (int i = 1; i <= 20; ++i)
    EXPECT_EQ(answers[static_cast<std::size_t>(i - 1)].get(), total += i);
}

// ---- binding

TEST_F(TorchforgeDefect, AnUnknownEndpointAnswersAtOnce) {
  const Service counter = plugin.actor("Counter").as_service(0);
  EXPECT_THAT(message_of<UnknownEndpoint>([&] { (void)counter.endpoint<void()>("decr"); }),
              AllOf(HasSubstr("'Counter'"), HasSubstr("'decr'"), HasSubstr("incr"),
                    HasSubstr("value"), HasSubstr("add"), HasSubstr("add_many")));
  EXPECT_THAT(
      message_of<SignatureMismatch>([&] { (void)counter.endpoint<double(std::string)>("add"); }),
      AllOf(HasSubstr("i64(i64,i64)"), HasSubstr("f64(str)"), HasSubstr("'add'")));
  EXPECT_THROW((void)counter.endpoint<std::int32_t()>("value"), SignatureMismatch);
  EXPECT_THROW((void)counter.endpoint<std::uint64_t()>("value"), SignatureMismatch);
  // Integers match by width and sign; const and references do not count.
  EXPECT_EQ(counter.endpoint<long long()>("value").route().get(), 0);
  const auto add = counter.endpoint<long(const long long&, const long)>("add");
  EXPECT_EQ(add.route(2, 3).get(), 6);

  const ActorMesh mesh = plugin.actor("Counter").as_actor(0);
  EXPECT_THROW((void)mesh.endpoint<void()>("decr"), UnknownEndpoint);
  EXPECT_THROW((void)mesh.endpoint<void()>("value"), SignatureMismatch);
}

TEST_F(CounterProgram, ArgumentsConvertWhenTheirValueFits) {
  const Service counter = plugin.actor("Counter").as_service(0);
  const auto add = counter.endpoint<std::int64_t(std::int64_t, std::int64_t)>("add");
  EXPECT_EQ(add.route(std::uint8_t{255}, short{1}).get(), 255);
  EXPECT_EQ(add.route(std::uint64_t{1}, 1).get(), 256);
  EXPECT_THROW(add.route(UINT64_MAX, 1).get(), InvalidArgument);
}

TEST_F(PayloadTest, NumbersThatWouldChangeDoNotConvert) {
  const Service service = serve();
  const auto small = service.endpoint<std::int8_t(std::int8_t)>("i8");
  EXPECT_EQ(small.route(-128).get(), -128);
  EXPECT_THAT(error_of<InvalidArgument>(small.route(128)), HasSubstr("128"));
  EXPECT_EQ(small.route(3.0).get(), 3);
  EXPECT_THROW(small.route(1.5).get(), InvalidArgument) << "a fraction was cut off";
  EXPECT_THROW(small.route(1e30).get(), InvalidArgument);
  const auto ratio = service.endpoint<float(float)>("f32");
  EXPECT_EQ(ratio.route(2).get(), 2.0F);
  EXPECT_EQ(ratio.route(0.1).get(), 0.1F);
  EXPECT_THROW(ratio.route(1e300).get(), InvalidArgument);
}

TEST_F(PayloadTest, AServiceMayAnswerAValuePerRank) {
  const Service service = serve({.procs = 3, .num_replicas = 2, .return_first_rank_result = false});
  const auto numbers = service.endpoint<ValueMesh<std::vector<std::int64_t>>()>("context_numbers");
  for (int turn = 0; turn < 2; ++turn) {
    const auto values = numbers.route().get();
    ASSERT_EQ(values.size(), 3U);
    for (const auto& [rank, context] : values)
      EXPECT_THAT(context, ElementsAre(rank, 3, turn, 1, -1, 1, 0));
  }
  EXPECT_THAT(message_of<SignatureMismatch>([&] { (void)service.endpoint<std::int64_t()>("pid"); }),
              AllOf(HasSubstr("ValueMesh"), HasSubstr("return_first_rank_result")));

  const Service plain = serve({.procs = 3});
  EXPECT_THAT(message_of<SignatureMismatch>(
                  [&] { (void)plain.endpoint<ValueMesh<std::int64_t>()>("pid"); }),
              HasSubstr("return_first_rank_result"));
  EXPECT_EQ(plain.endpoint<std::vector<std::int64_t>()>("context_numbers").route().get()[0], 0);
}

TEST_F(PayloadTest, FanoutAnswersInOrderOfReplica) {
  const Service service = serve({.num_replicas = 4});
  const auto numbers = service.endpoint<std::vector<std::int64_t>()>("context_numbers");
  for (int turn = 0; turn < 20; ++turn) {
    const auto all = numbers.fanout().get();
    ASSERT_EQ(all.size(), 4U);
    for (std::size_t i = 0; i < all.size(); ++i)
      EXPECT_EQ(all[i].value()[2], static_cast<std::int64_t>(i));
  }
  const auto fail = service.endpoint<void(std::string, std::string)>("fail");
  const auto failures = value_of(fail.fanout("own", "x"));  // four errors, and no exception
  EXPECT_EQ(failures.size(), 4U);
  for (const auto& one : failures) EXPECT_EQ(outcome(one), "actor_error");
}

TEST_F(PayloadTest, ChooseSpreadsOverTheRanksOfAMesh) {
  const ActorMesh mesh = payloads.actor("Payloads").options({.procs = 3}).as_actor();
  const auto pid = mesh.endpoint<std::int64_t()>("pid");
  std::map<std::int64_t, int> calls;
  for (int i = 0; i < 30; ++i) ++calls[pid.choose().get()];
  EXPECT_EQ(calls.size(), 3U);
  for (const auto& [process, count] : calls) EXPECT_EQ(count, 10) << process;
  // One that is busy is left alone.
  const auto sleep = mesh.endpoint<void(std::int64_t)>("sleep_ms");
  auto busy = sleep.choose(300);
  for (int i = 0; i < 10; ++i) pid.choose().get();
  EXPECT_FALSE(busy.wait_for(0s));
  busy.get();
  const ActorMesh single = payloads.actor("Payloads").as_actor();
  EXPECT_EQ(single.endpoint<std::int64_t()>("pid").call_one().get(), single.pids().at(0));
}

// ---- errors of endpoints

TEST_F(PayloadTest, AnEndpointsErrorArrivesWithTypeAndText) {
  const Service service = serve({.num_replicas = 2});
  const auto fail = service.endpoint<void(std::string, std::string)>("fail");
  const auto actor_error = [&](const std::string& how) {
    const auto result = await(fail.route(how, "oh no"));
    EXPECT_EQ(outcome(result), "actor_error");
    return dynamic_cast<const ActorError&>(result.error());
  };
  EXPECT_EQ(actor_error("range").type(), "std::out_of_range");
  EXPECT_EQ(actor_error("range").text(), "oh no");
  EXPECT_THAT(actor_error("range").what(),
              AllOf(HasSubstr("Payloads.fail"), HasSubstr("replica"), HasSubstr("oh no")));
  EXPECT_THAT(actor_error("own").type(), HasSubstr("OutOfCoffee"));
  EXPECT_EQ(actor_error("int").type(), "int");
  EXPECT_EQ(actor_error("forge").type(), "forge::Backpressure");
  EXPECT_EQ(actor_error("nested").type(), "std::bad_alloc");
  const auto long_text = await(fail.route("range", std::string(1 << 20, 'x')));
  EXPECT_EQ(outcome(long_text), "actor_error");
  fail.route("", "").get();
  for (const auto& replica : service.replicas()) EXPECT_EQ(replica.incarnation, 1U);
}

// ---- many threads, several services

TEST_F(PayloadTest, SixtyFourThreadsCallOneEndpoint) {
  const Service service = serve({.num_replicas = 2});
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  const auto text = service.endpoint<std::string(std::string)>("string");
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < 64; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const std::int64_t value = t * 1000 + i;
        right += same.route(value).get() == value;
        std::vector<Future<std::string>> answers;
        for (int k = 0; k < 4; ++k) answers.push_back(text.route(std::to_string(value + k)));
        for (int k = 3; k >= 0; --k)
          right += answers[static_cast<std::size_t>(k)].get() == std::to_string(value + k);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 64 * 50 * 5);
}

TEST_F(PayloadTest, SeveralServicesAndControllersAreApart) {
  const Footprint before = Footprint::now();
  {
    Controller other(quiet());
    const Plugin counters = other.load(plugin_path("counter"));
    std::vector<Service> services;
    for (int i = 0; i < 4; ++i)
      services.push_back(
          counters.actor("Counter").options({.name = "c" + std::to_string(i)}).as_service(100 * i));
    services.push_back(serve());
    EXPECT_EQ(services[2].name(), "c2");
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&service = services[static_cast<std::size_t>(i)], i] {
        const auto add = service.endpoint<std::int64_t(std::int64_t, std::int64_t)>("add");
        for (int k = 1; k <= 100; ++k) EXPECT_EQ(add.route(1, 1).get(), 100 * i + k);
      });
    }
    for (auto& thread : threads) thread.join();
    services[1].shutdown();
    EXPECT_EQ(services[0].endpoint<std::int64_t()>("value").route().get(), 100);
    EXPECT_EQ(services[4].endpoint<std::int8_t(std::int8_t)>("i8").route(1).get(), 1);
    services[0] = std::move(services[3]);  // the old one is shut down by that
    EXPECT_EQ(services[0].endpoint<std::int64_t()>("value").route().get(), 400);
  }
  EXPECT_TRUE(returns_to(before));
}

// ---- options

class WaitStrategies : public PayloadTest, public ::testing::WithParamInterface<Wait> {};

TEST_P(WaitStrategies, CallsAreAnswered) {
  const Service service = serve({.num_replicas = 2, .wait = GetParam()});
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  for (int i = 0; i < 100; ++i) ASSERT_EQ(value_of(same.route(i)), i);
  std::vector<Future<std::int64_t>> window;
  for (int i = 0; i < 600; ++i) window.push_back(same.route(i));  // more than the rings hold
  for (int i = 0; i < 600; ++i)
    ASSERT_EQ(value_of(std::move(window[static_cast<std::size_t>(i)])), i);
  std::atomic<int> seen{0};
  for (int i = 0; i < 20; ++i) (void)same.route(i).then([&](std::int64_t) { ++seen; });
  EXPECT_TRUE(wait_until([&] { return seen == 20; }));  // nobody polls: the engine thread does
  std::this_thread::sleep_for(50ms);                    // everybody is asleep by now
  EXPECT_EQ(value_of(same.route(7)), 7);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) EXPECT_EQ(value_of(same.route(i)), i);
    });
  }
  for (auto& thread : threads) thread.join();
}

std::string name_of(const ::testing::TestParamInfo<Wait>& info) {
  constexpr std::array kNames{"spin", "adaptive", "block"};
  return kNames.at(static_cast<std::size_t>(info.param));
}
INSTANTIATE_TEST_SUITE_P(All, WaitStrategies,
                         ::testing::Values(Wait::spin, Wait::adaptive, Wait::block), name_of);

TEST_F(PayloadTest, WorkersGetTheirEnvironment) {
  const ActorMesh mesh = payloads.actor("Payloads")
                             .options({.procs = 2,
                                       .env = {{"FLAVOUR", "vanilla"}, {"SHARED", "all"}},
                                       .rank_env = {{1, {{"FLAVOUR", "mint"}}}}})
                             .as_actor();
  const auto variable = mesh.endpoint<std::string(std::string)>("variable");
  const auto of = [&](const std::string& name) {
    std::vector<std::string> values;
    for (const auto& [rank, value] : variable.call(name).get()) values.push_back(value);
    return values;
  };
  EXPECT_THAT(of("FLAVOUR"), ElementsAre("vanilla", "mint"));
  EXPECT_THAT(of("SHARED"), Each(std::string("all")));
  EXPECT_THAT(of("RANK"), ElementsAre("0", "1"));
  EXPECT_THAT(of("LOCAL_RANK"), ElementsAre("0", "1"));
  EXPECT_THAT(of("WORLD_SIZE"), Each(std::string("2")));
  EXPECT_THAT(of("MASTER_ADDR"), Each(Not("(unset)")));
  EXPECT_THAT(of("MASTER_PORT"), Each(Not("(unset)")));
}

TEST_F(PayloadTest, ReplicasCanBeLookedAt) {
  Service service = serve({.procs = 2, .num_replicas = 3});
  const auto replicas = service.replicas();
  ASSERT_EQ(replicas.size(), 3U);
  std::set<int> pids;
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(replicas[i].idx, i);
    EXPECT_TRUE(replicas[i].healthy);
    EXPECT_EQ(replicas[i].state, ReplicaState::healthy);
    EXPECT_EQ(replicas[i].incarnation, 1U);
    pids.insert(replicas[i].pids.begin(), replicas[i].pids.end());
  }
  EXPECT_EQ(pids.size(), 6U);
  service.shutdown();
  for (const auto& replica : service.replicas()) {
    EXPECT_EQ(replica.state, ReplicaState::stopped);
    EXPECT_FALSE(replica.healthy);
    EXPECT_THAT(replica.pids, IsEmpty());
  }
}

// ---- after the end

TEST_F(PayloadTest, HandlesUsedAfterShutdownSayStopped) {
  Service service = serve();
  ActorMesh mesh = payloads.actor("Payloads").as_actor();
  const auto same = service.endpoint<std::int64_t(std::int64_t)>("i64");
  const auto mesh_pid = mesh.endpoint<std::int64_t()>("pid");
  controller.shutdown();
  EXPECT_THAT(error_of<Stopped>(same.route(1)), HasSubstr("'Payloads'"));
  EXPECT_THROW(same.fanout(1).get(), Stopped);
  EXPECT_THROW(mesh_pid.call().get(), Stopped);
  EXPECT_THROW(mesh_pid.choose().get(), Stopped);
  EXPECT_THROW((void)service.endpoint<std::int64_t()>("pid"), Stopped);
  EXPECT_THROW(service.allocate(DType::u8, {1}), Stopped);
  EXPECT_THROW(serve(), Stopped);
  EXPECT_THROW(controller.load(plugin_path("counter")), Stopped);
  EXPECT_THROW(payloads.actor("Payloads").as_service_async().get(), Stopped);
  service.shutdown();  // again, and no harm
  mesh.shutdown();
  controller.shutdown();
  const Service moved = std::move(service);
  EXPECT_THROW((void)service.endpoint<std::int64_t()>("pid"), Stopped);  // NOLINT
  EXPECT_THROW(service.allocate(DType::u8, {1}), Stopped);
}

TEST_F(PayloadTest, ShutdownAnswersAllThatWaits) {
  Controller impatient([] {
    ControllerOptions options = quiet();
    options.shutdown_grace = 50ms;
    return options;
  }());
  Service service = impatient.load(plugin_path("payloads")).actor("Payloads").as_service();
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  std::vector<Future<void>> waiting;
  for (int i = 0; i < 400; ++i) waiting.push_back(sleep.route(60'000));
  const int pid = pids_of(service).at(0);
  service.shutdown();
  EXPECT_TRUE(gone(pid));
  for (auto& one : waiting) EXPECT_EQ(outcome(await(std::move(one))), "stopped");
}

TEST_F(PayloadTest, ShutdownLetsWhatRunsFinish) {
  Service service = serve();
  auto running = service.endpoint<void(std::int64_t)>("sleep_ms").route(200);
  auto queued = service.endpoint<std::int64_t()>("pid").route();
  service.shutdown();
  EXPECT_EQ(outcome(await(std::move(running))), "ok");
  EXPECT_EQ(outcome(await(std::move(queued))), "ok");
}

TEST_F(PayloadTest, AControllerThatGoesWhileAServiceStartsLeavesNoFutureBehind) {
  const Footprint before = Footprint::now();
  for (int delay = 0; delay < 30; ++delay) {
    std::optional<Future<Service>> starting;
    {
      ControllerOptions options = quiet();
      options.shutdown_grace = 100ms;
      Controller short_lived(options);
      const Plugin plugin = short_lived.load(plugin_path("counter"));
      starting = plugin.actor("Counter").options({.num_replicas = 2}).as_service_async(0);
      std::this_thread::sleep_for(std::chrono::microseconds(delay * 300));
    }
    const auto result = await(std::move(*starting));
    if (!result.has_value()) {
      EXPECT_EQ(outcome(result), "stopped") << result.error().what();
    }
  }
  EXPECT_TRUE(returns_to(before));
}

}  // namespace
}  // namespace forge::e2e
