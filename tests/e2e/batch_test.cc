// Batches: who is called together, when a batch leaves, and what becomes of it when it fails.
#include <algorithm>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Numbers = std::vector<std::int64_t>;
using Map = std::int64_t(std::int64_t);

class Batches : public ::testing::Test {
 protected:
  Service serve(Options options = {}) {
    return plugin.actor("Batches").options(std::move(options)).as_service();
  }
  static std::vector<Future<std::int64_t>> send(const Endpoint<Map>& endpoint,
                                                const Numbers& values) {
    std::vector<Future<std::int64_t>> futures;
    for (const auto value : values) futures.push_back(endpoint.route(value));
    return futures;
  }
  static Numbers values(std::vector<Future<std::int64_t>> futures) {
    Numbers result;
    for (auto& future : futures) result.push_back(value_of(std::move(future)));
    return result;
  }
  static std::vector<std::string> outcomes(std::vector<Future<std::int64_t>> futures) {
    std::vector<std::string> result;
    for (auto& future : futures) result.push_back(outcome(await(std::move(future))));
    return result;
  }
  static Numbers sizes(const Service& service) {
    return value_of(service.endpoint<Numbers()>("sizes").route());
  }
  static bool stopped(int pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string line;
    std::getline(file, line);
    return line.find(") T ") != std::string::npos;
  }
  static Options restart_at_once() { return {.restart = {.backoff_initial = 0ms}}; }

  Controller controller{quiet()};
  Plugin plugin = controller.load(plugin_path("batches"));
};
using TorchforgeDefect = Batches;

TEST_F(Batches, LeaveWhenTheyAreFull) {
  const Service service = serve();
  const auto patient = service.endpoint<Map>("patient");
  EXPECT_THAT(values(send(patient, {1, 2, 3, 4, 5, 6, 7, 8})),
              ElementsAre(2, 4, 6, 8, 10, 12, 14, 16));
  EXPECT_THAT(sizes(service), ElementsAre(4, 4));
}

TEST_F(Batches, AreAsLargeAsTheServiceWantsThem) {
  const Service service =
      serve({.endpoints = {{"patient", {.batch_size = 2, .batch_timeout = 1h}}}});
  const auto patient = service.endpoint<Map>("patient");
  EXPECT_THAT(values(send(patient, {1, 2, 3, 4})), ElementsAre(2, 4, 6, 8));
  EXPECT_THAT(sizes(service), ElementsAre(2, 2));
}

TEST_F(Batches, LeaveWhenTheFirstHasWaitedLongEnough) {
  const Service service = serve();
  const auto doubled = service.endpoint<Map>("doubled");
  EXPECT_THAT(values(send(doubled, {1, 2, 3})), ElementsAre(2, 4, 6));
  const Numbers seen = sizes(service);
  EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), std::int64_t{0}), 3);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(value_of(doubled.route(i)), 2 * i);
}

TEST_F(Batches, OfOneAreCallsAsAnyOther) {
  const Service service = serve();
  EXPECT_EQ(value_of(service.endpoint<Map>("single").route(21)), 42);
  EXPECT_THAT(sizes(service), ElementsAre(1));
}

TEST_F(Batches, GiveEachElementItsOwnOutcome) {
  const Service service = serve();
  EXPECT_THAT(outcomes(send(service.endpoint<Map>("halved"), {2, 3, 4, 5})),
              ElementsAre("ok", "actor_error", "ok", "actor_error"));
  EXPECT_THAT(sizes(service), ElementsAre(4)) << "an element's own error is no reason to try again";
}

TEST_F(Batches, ThatThrowGiveTheErrorToAll) {
  const Service service = serve();
  EXPECT_THAT(outcomes(send(service.endpoint<Map>("strict"), {1, -2, 3, 4})),
              Each(std::string("actor_error")));
  EXPECT_THAT(sizes(service), ElementsAre(4));
}

TEST_F(Batches, ThatThrowAreTriedOneByOneIfTheyMay) {
  const Service service = serve();
  EXPECT_THAT(outcomes(send(service.endpoint<Map>("strict_idempotent"), {1, -2, 3, 4})),
              ElementsAre("ok", "actor_error", "ok", "ok"));
  EXPECT_THAT(sizes(service), ElementsAre(4, 1, 1, 1, 1));
  EXPECT_EQ(service.counters().retries, 4U);
}

TEST_F(Batches, ThatKillAreLost) {
  const Service service = serve(restart_at_once());
  EXPECT_THAT(outcomes(send(service.endpoint<Map>("fragile"), {1, -2, 3, 4})),
              Each(std::string("worker_lost")));
  EXPECT_EQ(value_of(service.endpoint<Map>("fragile").route(5)), 5);
}

TEST_F(Batches, ThatKillAreTriedOneByOneIfTheyMay) {
  const Service service = serve({.num_replicas = 2, .restart = {.backoff_initial = 0ms}});
  const auto all = outcomes(send(service.endpoint<Map>("fragile_idempotent"), {1, -2, 3, 4}));
  EXPECT_EQ(std::ranges::count(all, "ok"), 3) << "only the one that kills is given up";
  EXPECT_EQ(all[1], "poison_request");
}

TEST_F(Batches, StackTheirTensors) {
  const Service service = serve();
  const auto stacked = service.endpoint<Tensor(Tensor)>("stacked");
  std::vector<Future<Tensor>> futures;
  for (int i = 0; i < 4; ++i) {
    Tensor row = service.allocate(DType::f32, {3});
    std::ranges::fill(row.span<float>(), static_cast<float>(i));
    futures.push_back(stacked.route(row));
  }
  for (int i = 0; i < 4; ++i) {
    const Tensor answer = value_of(std::move(futures[static_cast<std::size_t>(i)]));
    EXPECT_THAT(answer.shape(), ElementsAre(3));
    EXPECT_THAT(answer.span<const float>(), Each(static_cast<float>(i + 1)));
  }
  EXPECT_THAT(sizes(service), ElementsAre(4));
}

TEST_F(Batches, TellTheirSizeInside) {
  const Service service = serve();
  const auto context = service.endpoint<std::int64_t()>("context");
  std::vector<Future<std::int64_t>> futures;
  for (int i = 0; i < 3; ++i) futures.push_back(context.route());
  EXPECT_THAT(values(std::move(futures)), Each(3));
  EXPECT_EQ(value_of(context.fanout()).front().value(), 1) << "fanout makes batches of one";
}

TEST_F(Batches, OfPlainMethodsAreRoutedTogetherAndRunOneByOne) {
  const Service service = serve({.num_replicas = 2});
  const auto one_by_one = service.endpoint<Map>("one_by_one");
  EXPECT_THAT(values(send(one_by_one, {1, 2, 3, 4, 5, 6, 7, 8})),
              ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  for (auto& seen : value_of(service.endpoint<Numbers()>("sizes").fanout()))
    EXPECT_THAT(seen.value(), ElementsAre(1, 1, 1, 1));
}

TEST_F(Batches, RunOnSeveralReplicasAtOnce) {
  const Service service = serve({.num_replicas = 2});
  const auto sleeps = service.endpoint<void(std::int64_t)>("sleeps");
  std::vector<Future<void>> futures;
  for (int i = 0; i < 8; ++i) futures.push_back(sleeps.route(50));
  for (auto& future : futures) EXPECT_EQ(outcome(await(std::move(future))), "ok");
  for (auto& seen : value_of(service.endpoint<Numbers()>("sizes").fanout()))
    EXPECT_THAT(seen.value(), ElementsAre(2, 2));
}

TEST_F(Batches, LoseElementsWhoseDeadlinePasses) {
  const Service service = serve();
  const auto patient = service.endpoint<Map>("patient");
  auto late = patient.with({.timeout = 10ms}).route(1);
  auto rest = send(patient, {2, 3});
  EXPECT_EQ(outcome(await(std::move(late))), "deadline_exceeded");
  auto more = send(patient, {4, 5});
  EXPECT_THAT(values(std::move(rest)), ElementsAre(4, 6));
  EXPECT_THAT(values(std::move(more)), ElementsAre(8, 10));
  EXPECT_THAT(sizes(service), ElementsAre(4));
}

TEST_F(TorchforgeDefect, ABatcherSurvivesAMomentWithoutHealthyReplicas) {
  const Service service = serve(restart_at_once());
  const auto doubled = service.endpoint<Map>("doubled");
  for (int round = 0; round < 5; ++round) {
    auto before = send(doubled, {1, 2, 3});
    ::kill(pids_of(service).at(0), SIGKILL);
    auto after = send(doubled, {4, 5, 6, 7, 8, 9, 10, 11, 12});
    for (const auto& each : outcomes(std::move(before)))
      EXPECT_THAT(each, ::testing::AnyOf("ok", "worker_lost"));
    for (const auto& each : outcomes(std::move(after)))
      EXPECT_THAT(each, ::testing::AnyOf("ok", "worker_lost"));
    EXPECT_EQ(value_of(doubled.route(4)), 8);
  }
}

/// One letter is one step: 'c'all, 'x' cancels the first call that is open, call of a 's'ession,
/// 'f'anout. What is left leaves at shutdown.
TEST_F(Batches, AreCutByThisTable) {
  struct Case {
    int size;
    std::string steps;
    std::vector<std::uint64_t> cut;  // [n]: batches of n
  };
  for (const Case& c : {
           Case{1, "ccccc", {}},
           Case{2, "ccccc", {0, 1, 2}},
           Case{4, "cccc", {0, 0, 0, 0, 1}},
           Case{4, "ccc", {0, 0, 0, 1}},
           Case{4, "c", {0, 1}},
           Case{4, "", {}},
           Case{4, "cx", {}},
           Case{4, "cccxc", {0, 0, 0, 1}},
           Case{3, "ccxcxcc", {0, 0, 0, 1}},
           Case{3, "cxccc", {0, 0, 0, 1}},
           Case{3, "ccxxccccc", {0, 0, 1, 1}},
           Case{2, "csc", {0, 0, 1}},
           Case{2, "cfcsc", {0, 1, 1}},
           Case{7, std::string(20, 'c'), {0, 0, 0, 0, 0, 0, 1, 2}},
       }) {
    SCOPED_TRACE(std::to_string(c.size) + " " + c.steps);
    Service service =
        serve({.endpoints = {{"patient", {.batch_size = c.size, .batch_timeout = 1h}}}});
    const auto patient = service.endpoint<Map>("patient");
    std::vector<std::pair<CancelSource, Future<std::int64_t>>> calls;
    std::size_t cancelled = 0;
    for (const char step : c.steps) {
      if (step == 'c') {
        CancelSource source;
        auto future = patient.with({.cancel = source.token()}).route(calls.size());
        calls.emplace_back(std::move(source), std::move(future));
      } else if (step == 'x') {
        calls[cancelled++].first.cancel();
      } else if (step == 's') {
        EXPECT_EQ(value_of(patient.with({.sess_id = "s"}).route(3)), 6);
      } else {
        EXPECT_EQ(value_of(patient.fanout(3)).at(0).value(), 6);
      }
    }
    service.shutdown();
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const auto result = await(std::move(calls[i].second));
      EXPECT_EQ(outcome(result), i < cancelled ? "cancelled" : "ok") << i;
      if (result) {
        EXPECT_EQ(*result, 2 * static_cast<std::int64_t>(i));
      }
    }
    EXPECT_EQ(service.get_metrics_summary().endpoints.at("patient").batch_sizes, c.cut);
  }
}

TEST_F(Batches, ThatTimeCutsHoldAllAndNoMoreThanTheyMay) {
  for (const std::chrono::milliseconds timeout : {0ms, 1ms, 5ms}) {
    const Service service =
        serve({.endpoints = {{"patient", {.batch_size = 8, .batch_timeout = timeout}}}});
    const auto patient = service.endpoint<Map>("patient");
    for (int i = 0; i < 5; ++i) EXPECT_EQ(value_of(patient.route(i)), 2 * i);
    const auto alone = service.get_metrics_summary().endpoints.at("patient").batch_sizes;
    EXPECT_THAT(alone, ElementsAre(0, 5)) << "whoever waits for each sends one at a time";
    Numbers many(50);
    std::iota(many.begin(), many.end(), 0);
    values(send(patient, many));
    const auto cut = service.get_metrics_summary().endpoints.at("patient").batch_sizes;
    EXPECT_LE(cut.size(), 9U);
    std::uint64_t elements = 0;
    for (std::size_t size = 0; size < cut.size(); ++size) elements += size * cut[size];
    EXPECT_EQ(elements, 55U);
  }
}

TEST_F(Batches, ThatHadLeftDoNotWaitAgainWhenTheirReplicaDies) {
  const Service service = serve({.health_poll_rate = 1h, .restart = {.backoff_initial = 0ms}});
  const auto patient =
      service.endpoint<Map>("patient");  // batches of 4, for which it waits an hour
  const int pid = pids_of(service).at(0);
  ::kill(pid, SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return stopped(pid); }));
  const CancelSource source;
  auto first = patient.with({.cancel = source.token()}).route(0);
  auto rest = send(patient, {1, 2, 3});
  source.cancel();
  ::kill(pid, SIGKILL);
  EXPECT_EQ(outcome(await(std::move(first))), "cancelled");
  EXPECT_THAT(values(std::move(rest)), ElementsAre(2, 4, 6)) << "three are left, and go as three";
}

TEST_F(Batches, LeaveAtShutdown) {
  Service service = serve();
  auto futures = send(service.endpoint<Map>("patient"), {1, 2});
  service.shutdown();
  EXPECT_THAT(values(std::move(futures)), ElementsAre(2, 4));
}

TEST_F(Batches, HaveALargestSize) {
  EXPECT_THAT(message_of<InvalidArgument>([&] { plugin.actor("TooLarge").as_service(); }),
              HasSubstr("100000"));
}

TEST_F(Batches, OfManyThreadsLoseNothing) {
  const Service service = serve({.num_replicas = 2});
  const auto doubled = service.endpoint<Map>("doubled");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round) {
        Numbers numbers(50);
        std::iota(numbers.begin(), numbers.end(), t * 1000 + round * 50);
        const Numbers answers = values(send(doubled, numbers));
        for (std::size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(answers[i], 2 * numbers[i]);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

// ---- rows in place

class Rows : public Batches {
 protected:
  using Sum = double(Tensor);
  static Tensor filled(Tensor row, float value) {
    std::ranges::fill(row.span<float>(), value);
    return row;
  }
  /// A row of the endpoint's next batch, full of `value`.
  static Tensor row(const Endpoint<Sum>& endpoint, float value, std::int64_t width = 16) {
    return filled(endpoint.allocate(DType::f32, {width}), value);
  }
  std::uint64_t copies() const {
    return value_of(service.endpoint<std::uint64_t()>("copies").route());
  }

  Service service = serve();
  Endpoint<Sum> sums = service.endpoint<Sum>("sums");
  Endpoint<Sum> soon = service.endpoint<Sum>("sums_soon");
};

TEST_F(Rows, AreSeenAsOneTensorWithoutACopy) {
  std::vector<Future<double>> futures;
  for (int i = 0; i < 12; ++i) futures.push_back(sums.route(row(sums, static_cast<float>(i))));
  for (int i = 0; i < 12; ++i) EXPECT_EQ(value_of(std::move(futures[i])), 16.0 * i);
  EXPECT_EQ(copies(), 0u);
  EXPECT_EQ(service.counters().copied_bytes, 0u);
  EXPECT_THAT(sizes(service), ElementsAre(4, 4, 4));
}

TEST_F(Rows, MayBeRoutedInAnyOrder) {
  std::vector<Tensor> made;
  for (int i = 0; i < 4; ++i) made.push_back(row(sums, static_cast<float>(i)));
  std::vector<Future<double>> futures;
  for (const int i : {2, 0, 3, 1}) futures.push_back(sums.route(made[i]));
  std::vector<double> answers;
  for (auto& future : futures) answers.push_back(value_of(std::move(future)));
  EXPECT_THAT(answers, ElementsAre(32, 0, 48, 16));
  EXPECT_EQ(copies(), 0u);
}

TEST_F(Rows, AdjoinAgainAfterABatchThatWasNotFull) {
  for (int round = 0; round < 5; ++round) {
    std::vector<Future<double>> futures;
    for (int i = 0; i < 3; ++i) futures.push_back(soon.route(row(soon, static_cast<float>(i))));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(value_of(std::move(futures[i])), 16.0 * i);
  }
  EXPECT_EQ(copies(), 0u);
}

TEST_F(Rows, AdjoinAgainAfterABatchOfTwoSlabs) {
  // Handed out before a batch left that was not full, and routed after it.
  auto early = soon.route(row(soon, 1));
  std::vector<Tensor> rest;
  for (int i = 0; i < 2; ++i) rest.push_back(row(soon, 2));
  EXPECT_EQ(value_of(std::move(early)), 16);
  std::vector<Future<double>> futures;
  for (const Tensor& tensor : rest) futures.push_back(soon.route(tensor));
  for (int i = 0; i < 40; ++i) futures.push_back(soon.route(row(soon, 3)));
  for (auto& future : futures) EXPECT_GT(value_of(std::move(future)), 0);
  EXPECT_LE(copies(), 4u) << "one batch";
}

TEST_F(Rows, OfCancelledCallsAreSkipped) {
  const CancelSource source;
  std::vector<Future<double>> futures;
  for (int i = 0; i < 3; ++i) {
    const auto endpoint = i == 1 ? sums.with({.cancel = source.token()}) : sums;
    futures.push_back(endpoint.route(row(sums, static_cast<float>(i))));
  }
  source.cancel();
  for (int i = 3; i < 5; ++i) futures.push_back(sums.route(row(sums, static_cast<float>(i))));
  EXPECT_EQ(outcome(await(std::move(futures[1]))), "cancelled");
  for (const int i : {0, 2, 3, 4}) EXPECT_EQ(value_of(std::move(futures[i])), 16.0 * i);
  EXPECT_THAT(sizes(service), ElementsAre(4));
}

TEST_F(Rows, FromElsewhereAreCopiedOnce) {
  std::vector<Future<double>> futures;
  for (int i = 0; i < 4; ++i) {
    const Tensor mine =
        i == 2 ? filled(Tensor(DType::f32, {16}), 2) : row(sums, static_cast<float>(i));
    futures.push_back(sums.route(mine));
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(value_of(std::move(futures[i])), 16.0 * i);
  EXPECT_EQ(copies(), 4u);
  EXPECT_EQ(service.counters().copied_bytes, 64u);
}

TEST_F(Rows, ThatTheActorKeepsStayAsTheyWere) {
  std::vector<Future<double>> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(sums.route(row(sums, 1)));
  for (auto& future : futures) value_of(std::move(future));
  const auto other = service.endpoint<Tensor(Tensor)>("stacked");
  for (int i = 0; i < 20; ++i)
    (void)value_of(other.route(filled(service.allocate(DType::f32, {16}), 9)));
  EXPECT_EQ(value_of(service.endpoint<double()>("kept_sum").route()), 64);
}

TEST_F(Rows, AreFrozenOneByOneAndGiveTheirMemoryBack) {
  const Tensor first = row(sums, 1);
  const Tensor second = row(sums, 2);
  auto future = sums.route(first);
  EXPECT_TRUE(first.frozen());
  EXPECT_FALSE(second.frozen());
  std::vector<Future<double>> futures;
  futures.push_back(sums.route(second));
  for (int i = 0; i < 2; ++i) futures.push_back(sums.route(row(sums, 3)));
  EXPECT_EQ(value_of(std::move(future)), 16);
  for (auto& rest : futures) value_of(std::move(rest));
  // Twice what the arena holds.
  for (int round = 0; round < 512; ++round) {
    std::vector<Future<double>> more;
    for (int i = 0; i < 4; ++i) more.push_back(sums.route(row(sums, 1, 16 * 1024)));
    for (auto& one : more) value_of(std::move(one));
  }
  EXPECT_EQ(copies(), 0u);
}

TEST_F(Rows, OfOtherShapesAndOfEndpointsWithoutBatchesWork) {
  const Tensor wide = row(sums, 1, 32);
  const Tensor narrow = row(sums, 1, 8);
  EXPECT_EQ(wide.shape()[0], 32);
  EXPECT_EQ(narrow.shape()[0], 8);
  EXPECT_THAT(message_of<InvalidArgument>([&] { (void)sums.allocate(DType::f32, {-1}); }),
              ::testing::Not(::testing::IsEmpty()));
  EXPECT_THAT(message_of<PayloadTooLarge>(
                  [&] { (void)sums.allocate(DType::f32, {std::int64_t{1} << 32}); }),
              HasSubstr("arena_bytes"));
  EXPECT_EQ(sums.allocate(DType::f32, {0}).size(), 0u);
}

}  // namespace
}  // namespace forge::e2e
