// Metrics of a real service: every name says what happened, exactly.
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::Gt;
using ::testing::Le;
using Echo = Bytes(Bytes);

class Metrics : public PayloadTest {
 protected:
  static std::uint64_t total(const MetricsSummary& summary) {
    std::uint64_t sum = 0;
    for (const auto& [idx, replica] : summary.replicas) sum += replica.total_requests;
    return sum;
  }
  Plugin counters = controller.load(plugin_path("counter"));
  Plugin faulty = controller.load(plugin_path("faulty"));
};
using TorchforgeDefect = Metrics;

TEST_F(TorchforgeDefect, TwentyThousandRequestsAreReportedAsTwentyThousand) {
  const auto born = std::chrono::steady_clock::now();
  const Service service = counters.actor("Counter").options({.num_replicas = 3}).as_service(0);
  const auto value = service.endpoint<std::int64_t()>("value");
  constexpr int kThreads = 4;
  constexpr int kCalls = 5000;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kCalls; ++i) value.route().get();
    });
  }
  for (auto& thread : threads) thread.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  const auto summary = service.get_metrics_summary();
  EXPECT_EQ(total(summary), static_cast<std::uint64_t>(kThreads) * kCalls);
  ASSERT_EQ(summary.replicas.size(), 3u);
  for (const auto& [idx, replica] : summary.replicas) {
    EXPECT_EQ(replica.successful_requests, replica.total_requests);
    EXPECT_EQ(replica.failed_requests, 0u);
    EXPECT_EQ(replica.rejected, 0u);
    EXPECT_EQ(replica.restarts, 0u);
    EXPECT_EQ(replica.active_requests, 0u);
    EXPECT_EQ(replica.queue_depth, 0u);
    EXPECT_GT(replica.time.total.count(), 0u);
    EXPECT_EQ(replica.time.execution.count(), replica.time.total.count());
    EXPECT_TRUE(replica.batch_sizes.empty());
    EXPECT_TRUE(replica.devices.empty());
    EXPECT_EQ(replica.ring_requests, 0u);
    EXPECT_THAT(replica.avg_latency, AllOf(Gt(0.0), Le(took.count())));
  }
  // All of them, over a time between that of the calls and that since before the service.
  const std::chrono::duration<double> age = std::chrono::steady_clock::now() - born;
  constexpr double kRequests = kThreads * kCalls;
  ASSERT_LT(age, ServiceMetrics::kLongestWindow);
  EXPECT_THAT(summary.service.total_request_rate,
              AllOf(Ge(kRequests / age.count()), Le(kRequests / took.count())));
  EXPECT_EQ(summary.service.healthy_replicas, 3u);
  EXPECT_EQ(summary.service.total_replicas, 3u);
  const auto& time = summary.endpoints.at("value").time;
  EXPECT_EQ(time.batch_wait.count(), 0u);
  EXPECT_EQ(time.queue.count(), time.total.count());
  EXPECT_EQ(time.execution.count(), time.total.count());
  Histogram of_replicas;
  for (const auto& [idx, replica] : summary.replicas) of_replicas.add(replica.time.execution);
  EXPECT_EQ(of_replicas.count(), time.execution.count());
  EXPECT_NEAR(of_replicas.sum(), time.execution.sum(), 1e-9);
  EXPECT_EQ(summary.endpoints.at("incr").time.total.count(), 0u);
}

TEST_F(Metrics, TellWhereTheTimeWent) {
  const Service service = faulty.actor("Faulty").as_service();
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  sleep.route(50).get();
  const auto time = service.get_metrics_summary().endpoints.at("sleep_ms").time;
  ASSERT_EQ(time.total.count(), 1u);
  EXPECT_THAT(time.execution.mean(), AllOf(Ge(0.05), Le(time.total.mean())));
  EXPECT_THAT(time.total.mean(),
              Ge(time.execution.mean() + time.transport.mean() + time.queue.mean() - 1e-9));
}

TEST_F(Metrics, KnowBatches) {
  const Plugin batches = controller.load(plugin_path("batches"));
  const Service service = batches.actor("Batches").as_service();
  const auto patient = service.endpoint<std::int64_t(std::int64_t)>("patient");  // batches of 4
  std::vector<Future<std::int64_t>> futures;
  for (int i = 0; i < 8; ++i) futures.push_back(patient.route(i));
  for (auto& future : futures) value_of(std::move(future));
  const auto summary = service.get_metrics_summary();
  EXPECT_EQ(total(summary), 8u);
  const auto& endpoint = summary.endpoints.at("patient");
  EXPECT_THAT(endpoint.batch_sizes, ::testing::ElementsAre(0, 0, 0, 0, 2));
  EXPECT_EQ(summary.replicas.at(0).batch_sizes, endpoint.batch_sizes);
  EXPECT_EQ(endpoint.time.batch_wait.count(), 8u);
  EXPECT_EQ(endpoint.time.execution.count(), 8u);
}

TEST_F(Metrics, CountFailuresAndRefusals) {
  const Service service =
      faulty.actor("Faulty")
          .options({.replica_max_concurrent_requests = 1, .max_queued_requests = 2})
          .as_service();
  const auto fail = service.endpoint<void(std::string)>("throw_error");
  for (int i = 0; i < 3; ++i) error_of<ActorError>(fail.route(std::string("on purpose")));
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  std::vector<Future<void>> slow;
  for (int i = 0; i < 3; ++i) slow.push_back(sleep.route(50));
  error_of<Backpressure>(sleep.route(50));
  auto late = sleep.with({.timeout = 1ms}).route(0);
  error_of<DeadlineExceeded>(std::move(late));
  for (auto& future : slow) await(std::move(future)).value();
  CancelSource source;
  auto busy = sleep.route(50);
  auto cancelled = sleep.with({.cancel = source.token()}).route(50);
  source.cancel();
  error_of<Cancelled>(std::move(cancelled));
  await(std::move(busy)).value();
  const auto summary = service.get_metrics_summary();
  const auto& replica = summary.replicas.at(0);
  EXPECT_EQ(replica.successful_requests, 4u);
  EXPECT_EQ(replica.failed_requests, 5u);
  EXPECT_EQ(replica.total_requests, 9u);
  EXPECT_EQ(replica.rejected, 1u);
  using Failures = std::map<std::string, std::uint64_t>;
  EXPECT_EQ(summary.endpoints.at("throw_error").failures, (Failures{{"actor_error", 3}}));
  EXPECT_EQ(summary.endpoints.at("sleep_ms").failures,
            (Failures{{"backpressure", 1}, {"cancelled", 1}, {"deadline_exceeded", 1}}));
}

TEST_F(Metrics, CountAReplayedRequestWhereItEnded) {
  const Service service =
      faulty.actor("Faulty").options({.restart = {.backoff_initial = 0ms}}).as_service();
  const auto die = service.endpoint<void()>("abort");
  error_of<WorkerLost>(die.route());
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  sleep.route(0).get();
  const auto replica = service.get_metrics_summary().replicas.at(0);
  EXPECT_EQ(replica.failed_requests, 1u);
  EXPECT_EQ(replica.successful_requests, 1u);
  EXPECT_EQ(replica.restarts, 1u);
}

TEST_F(Metrics, SeeWhatWaits) {
  const Service service =
      faulty.actor("Faulty").options({.replica_max_concurrent_requests = 2}).as_service();
  const auto sleep = service.endpoint<void(std::int64_t)>("sleep_ms");
  std::vector<Future<void>> futures;
  for (int i = 0; i < 8; ++i) futures.push_back(sleep.route(50));
  const auto session = service.start_session();
  const auto busy = service.get_metrics_summary();
  EXPECT_EQ(busy.replicas.at(0).active_requests + busy.replicas.at(0).queue_depth, 8u);
  EXPECT_EQ(busy.replicas.at(0).active_requests, 2u);
  EXPECT_EQ(busy.replicas.at(0).capacity_utilization, 1);
  EXPECT_EQ(busy.service.total_sessions, 1u);
  EXPECT_EQ(service.get_metrics().get_sessions_per_replica(), 1);
  for (auto& future : futures) await(std::move(future)).value();
  EXPECT_GT(service.get_metrics().get_avg_queue_depth(), 0);
  EXPECT_GT(service.get_metrics().get_avg_capacity_utilization(), 0);
}

}  // namespace
}  // namespace forge::e2e
