// What Prometheus is told of a controller, number by number, and that it keeps to Prometheus's rules.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>

#include "core/prometheus/families.h"
#include "core/utf8.h"

namespace forge::core {
namespace {

using namespace std::chrono_literals;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using Labels = std::map<std::string, std::string>;

Labels labels_of(const ClientMetric& metric) {
  Labels labels;
  for (const auto& label : metric.label) labels[label.name] = label.value;
  return labels;
}

/// Two services of one name: one of two replicas with a batched endpoint, one that has done nothing.
ControllerView example() {
  auto manifest = std::make_shared<replicas::ActorManifest>();
  manifest->endpoints.resize(2);
  manifest->endpoints[0].name = "plain";
  manifest->endpoints[1].name = "batched";
  manifest->endpoints[1].options.batch_size = 8;
  ControllerView view;
  view.identity = {"trainer", "app", SteadyClock::now()};
  ServiceView& busy = view.services.emplace_back();
  busy.name = "policy";
  busy.actor = "Policy";
  busy.manifest = manifest;
  busy.overview = {"serving", 5, 1000, 4000, 90s};
  busy.replicas = {{0, ReplicaState::healthy, true, 3, {1}, {}, {}},
                   {1, ReplicaState::quarantined, false, 9, {}, {}, {}}};
  busy.spares = {{2, ReplicaState::healthy, true, 1, {2}, {}, {}}};
  busy.counters.replays = 11;
  busy.counters.quarantines = 1;
  busy.counters.copied_bytes = 77;
  busy.metrics.service.total_sessions = 4;
  busy.metrics.service.scale_events = 6;
  ReplicaMetrics& replica = busy.metrics.replicas[0];
  replica.successful_requests = 90;
  replica.failed_requests = 10;
  replica.total_requests = 100;
  replica.rejected = 3;
  replica.restarts = 2;
  replica.active_requests = 1;
  replica.queue_depth = 7;
  replica.ring_requests = 8;
  replica.capacity_utilization = 0.1;
  replica.time.execution.record(1us);
  replica.batch_sizes = {0, 2, 0, 5, 0, 0, 0, 0, 1};
  replica.devices = {{"GPU-1", 10, 20, 30}};
  busy.metrics.replicas[1] = {};
  EndpointMetrics& plain = busy.metrics.endpoints["plain"];
  for (const auto time : {100ns, 1023ns, 1024ns, 5000ns}) plain.time.total.record(time);
  plain.time.total.record(200s);
  busy.metrics.endpoints["batched"].batch_sizes = replica.batch_sizes;
  plain.failures = {{"actor_error", 5}, {"cancelled", 4}, {"deadline_exceeded", 3}};
  plain.unheard = {{"actor_error", 2}};
  ServiceView& idle = view.services.emplace_back();
  idle.name = "policy";
  idle.manifest = manifest;
  return view;
}

class Families : public ::testing::Test {
 protected:
  const MetricFamily& family(const std::string& name) {
    for (const MetricFamily& candidate : families)
      if (candidate.name == name) return candidate;
    ADD_FAILURE() << name << " is missing";
    static const MetricFamily none{};
    return none;
  }
  const ClientMetric& metric(const std::string& name, const Labels& labels) {
    for (const ClientMetric& candidate : family(name).metric)
      if (labels_of(candidate) == labels) return candidate;
    ADD_FAILURE() << name << " is missing for these labels";
    static const ClientMetric none{};
    return none;
  }
  double value(const std::string& name, const Labels& labels) {
    const ClientMetric& found = metric(name, labels);
    return family(name).type == MetricType::Counter ? found.counter.value : found.gauge.value;
  }
  /// How many were at most so large.
  static std::uint64_t at_most(const ClientMetric& found, double bound) {
    for (const auto& bucket : found.histogram.bucket)
      if (bucket.upper_bound == bound) return bucket.cumulative_count;
    ADD_FAILURE() << "no bound " << bound;
    return 0;
  }

  const std::vector<MetricFamily> families = families_of(example());
};

TEST_F(Families, NumbersOfServices) {
  const Labels policy{{"service", "policy"}};
  EXPECT_EQ(value("forge_service_uptime_seconds", policy), 90);
  EXPECT_EQ(value("forge_service_open_requests", policy), 5);
  EXPECT_EQ(value("forge_service_spares", policy), 1);
  EXPECT_EQ(value("forge_service_sessions", policy), 4);
  EXPECT_EQ(value("forge_service_arena_used_bytes", policy), 1000);
  EXPECT_EQ(value("forge_service_arena_bytes", policy), 4000);
  EXPECT_EQ(value("forge_service_replayed_requests_total", policy), 11);
  EXPECT_EQ(value("forge_service_quarantines_total", policy), 1);
  EXPECT_EQ(value("forge_service_copied_bytes_total", policy), 77);
  EXPECT_EQ(value("forge_service_scale_events_total", policy), 6);
  EXPECT_EQ(value("forge_service_replicas", {{"service", "policy"}, {"state", "healthy"}}), 1);
  EXPECT_EQ(value("forge_service_replicas", {{"service", "policy"}, {"state", "quarantined"}}), 1);
  EXPECT_EQ(value("forge_service_replicas", {{"service", "policy"}, {"state", "recovering"}}), 0);
}

TEST_F(Families, TellErrorsOfEndpointsApart) {
  Labels error{{"service", "policy"}, {"endpoint", "plain"}, {"code", "actor_error"}};
  EXPECT_EQ(value("forge_endpoint_failures_total", error), 5);
  EXPECT_EQ(value("forge_endpoint_unheard_errors_total", error), 2);
  error["code"] = "cancelled";
  EXPECT_EQ(value("forge_endpoint_failures_total", error), 4);
  error["code"] = "deadline_exceeded";
  EXPECT_EQ(value("forge_endpoint_failures_total", error), 3);
}

TEST(FamiliesOfOthers, LabelsAreUtf8WhateverTheNames) {
  ControllerView view = example();
  view.identity.program = "app\xFE";
  view.services[0].name = "mod\xFF";
  view.services[1].name = "mod\xFE";
  std::set<std::string> services;
  for (const MetricFamily& family : families_of(view)) {
    for (const ClientMetric& metric : family.metric) {
      for (const auto& label : metric.label) {
        EXPECT_TRUE(is_utf8(label.value)) << family.name << " " << label.name;
        if (label.name == "service") services.insert(label.value);
      }
    }
  }
  EXPECT_EQ(services, (std::set<std::string>{"mod\xEF\xBF\xBD", "mod\xEF\xBF\xBD#2"}));
}

TEST_F(Families, NumbersOfReplicas) {
  const Labels first{{"service", "policy"}, {"replica", "0"}};
  EXPECT_EQ(value("forge_replica_healthy", first), 1);
  EXPECT_EQ(value("forge_replica_healthy", {{"service", "policy"}, {"replica", "1"}}), 0);
  EXPECT_EQ(value("forge_replica_rejected_requests_total", first), 3);
  EXPECT_EQ(value("forge_replica_restarts_total", first), 2);
  EXPECT_EQ(value("forge_replica_active_requests", first), 1);
  EXPECT_EQ(value("forge_replica_queued_requests", first), 7);
  EXPECT_EQ(value("forge_replica_ring_requests", first), 8);
  EXPECT_EQ(value("forge_replica_utilization_ratio", first), 0.1);
  Labels result = first;
  result["result"] = "success";
  EXPECT_EQ(value("forge_replica_requests_total", result), 90);
  result["result"] = "failure";
  EXPECT_EQ(value("forge_replica_requests_total", result), 10);
  const Labels device{{"service", "policy"}, {"replica", "0"}, {"rank", "0"}, {"device", "GPU-1"}};
  EXPECT_EQ(value("forge_device_memory_used_bytes", device), 10);
  EXPECT_EQ(value("forge_device_memory_pooled_bytes", device), 20);
  EXPECT_EQ(value("forge_device_memory_bytes", device), 30);
}

TEST_F(Families, TimesAndSizesAreHistograms) {
  const auto& total =
      metric("forge_endpoint_request_seconds", {{"service", "policy"}, {"endpoint", "plain"}});
  EXPECT_EQ(total.histogram.sample_count, 5U);
  EXPECT_NEAR(total.histogram.sample_sum, 200.000007147, 1e-9);
  EXPECT_EQ(at_most(total, 1.024e-6), 2U);
  EXPECT_EQ(at_most(total, 4.096e-6), 3U);
  EXPECT_EQ(at_most(total, 16.384e-6), 4U);
  EXPECT_EQ(at_most(total, std::numeric_limits<double>::infinity()), 5U);
  const auto& sizes =
      metric("forge_endpoint_batch_size", {{"service", "policy"}, {"endpoint", "batched"}});
  EXPECT_EQ(sizes.histogram.sample_count, 8U);
  EXPECT_EQ(sizes.histogram.sample_sum, 2 + 15 + 8);
  EXPECT_EQ(at_most(sizes, 1), 2U);
  EXPECT_EQ(at_most(sizes, 2), 2U);
  EXPECT_EQ(at_most(sizes, 4), 7U);
  EXPECT_EQ(at_most(sizes, 8), 8U);
  EXPECT_EQ(at_most(sizes, 1024), 8U);
  const auto& executed =
      metric("forge_replica_execution_seconds", {{"service", "policy"}, {"replica", "0"}});
  EXPECT_EQ(executed.histogram.sample_count, 1U);
}

TEST_F(Families, OnlyWhatBatchesHasBatches) {
  for (const char* name : {"forge_endpoint_batch_size", "forge_endpoint_batch_wait_seconds"}) {
    ASSERT_EQ(family(name).metric.size(), 1U) << name;
    EXPECT_EQ(labels_of(family(name).metric[0])["endpoint"], "batched");
  }
}

TEST_F(Families, KeepPrometheussRules) {
  std::set<std::string> names;
  for (const MetricFamily& each : families) {
    EXPECT_TRUE(names.insert(each.name).second) << each.name << " is there twice";
    EXPECT_TRUE(each.name.starts_with("forge_")) << each.name;
    EXPECT_EQ(each.name.ends_with("_total"), each.type == MetricType::Counter) << each.name;
    EXPECT_FALSE(each.help.empty()) << each.name;
    EXPECT_FALSE(each.metric.empty()) << each.name;
    std::set<Labels> series;
    for (const ClientMetric& one : each.metric) {
      EXPECT_TRUE(series.insert(labels_of(one)).second) << each.name << " has a series twice";
      std::uint64_t before = 0;
      double bound = -1;
      for (const auto& bucket : one.histogram.bucket) {
        EXPECT_GE(bucket.cumulative_count, before) << each.name;
        EXPECT_GT(bucket.upper_bound, bound) << each.name;
        before = bucket.cumulative_count;
        bound = bucket.upper_bound;
      }
      if (each.type == MetricType::Histogram) {
        EXPECT_TRUE(std::isinf(bound)) << each.name;
        EXPECT_EQ(before, one.histogram.sample_count) << each.name;
      }
    }
  }
}

TEST_F(Families, OfServicesWithOneNameCanBeTold) {
  EXPECT_EQ(value("forge_service_open_requests", {{"service", "policy#2"}}), 0);
}

TEST(NoServices, AreTold) {
  const auto families = families_of({{"", "app", SteadyClock::now()}, {}});
  ASSERT_EQ(families.size(), 2U);
  EXPECT_EQ(families[0].name, "forge_info");
  EXPECT_EQ(labels_of(families[0].metric[0])["version"], FORGE_VERSION);
}

}  // namespace
}  // namespace forge::core
