// What people who come from torchforge's services expect, scenario by scenario: its test_service.py
// and the router and batching tests of its pull request 304, written anew against this face.
//
// Told elsewhere, exactly: starting, options and as_actor (api_test), sessions that nest, end, are
// strict or idle (session_test), round robin and least loaded spreading (routing_test), full, timed,
// failing and stacked batches (batch_test), what metrics count (metrics_test), quarantine and shares
// of a dead replica (faults_test).
#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using Map = std::int64_t(std::int64_t);
using Numbers = std::vector<std::int64_t>;

class Scenario : public ::testing::Test {
 protected:
  Service counters(Options options, std::int64_t first = 0) {
    return controller.load(plugin_path("counter"))
        .actor("Counter")
        .options(std::move(options))
        .as_service(first);
  }
  Service faulty(Options options) {
    return controller.load(plugin_path("faulty"))
        .actor("Faulty")
        .options(std::move(options))
        .as_service();
  }
  Service batches(Options options) {
    return controller.load(plugin_path("batches"))
        .actor("Batches")
        .options(std::move(options))
        .as_service();
  }
  static Numbers everywhere(const Service& service) {
    Numbers result;
    for (auto& share : value_of(service.endpoint<std::int64_t()>("value").fanout()))
      result.push_back(share.value());
    return result;
  }
  static Numbers numbers(std::vector<Future<std::int64_t>>& futures) {
    Numbers result;
    for (auto& future : futures) result.push_back(value_of(std::move(future)));
    return result;
  }

  Controller controller{quiet()};
};
using TorchforgeDefect = Scenario;

// ---- state and sessions

TEST_F(Scenario, ASessionSeesItsOwnStateAndNoOther) {
  const Service service = counters({.num_replicas = 2});
  const auto incr = service.endpoint<void()>("incr");
  const auto value = service.endpoint<std::int64_t()>("value");
  const std::string one = service.start_session();
  const std::string two = service.start_session();
  for (int i = 0; i < 3; ++i) value_of(incr.with({.sess_id = one}).route());
  value_of(incr.with({.sess_id = two}).route());
  EXPECT_EQ(value_of(value.with({.sess_id = one}).route()), 3);
  EXPECT_EQ(value_of(value.with({.sess_id = two}).route()), 1);
  EXPECT_NE(service.session_map().at(one), service.session_map().at(two));
}

TEST_F(Scenario, SessionsOutnumberReplicasAndShareThem) {
  const Service service = counters({.num_replicas = 2});
  const auto add = service.endpoint<std::int64_t(std::int64_t, std::int64_t)>("add");
  for (int i = 0; i < 8; ++i)
    value_of(add.with({.sess_id = "user-" + std::to_string(i)}).route(1, 1));
  std::map<std::uint32_t, int> homes;
  for (const auto& [id, replica] : service.session_map()) ++homes[replica];
  EXPECT_EQ(homes[0], 4);
  EXPECT_EQ(homes[1], 4);
  EXPECT_THAT(everywhere(service), ElementsAre(4, 4));
  const auto summary = service.get_metrics_summary();
  for (const auto& [idx, replica] : summary.replicas) EXPECT_EQ(replica.assigned_sessions, 4U);
  EXPECT_EQ(summary.service.sessions_per_replica, 4);
}

TEST_F(Scenario, CallsWithAndWithoutSessionsMix) {
  const Service service = counters({.num_replicas = 3});
  const auto incr = service.endpoint<void()>("incr");
  const std::string id = service.start_session();
  std::vector<Future<void>> calls;
  for (int i = 0; i < 30; ++i) {
    calls.push_back(incr.with({.sess_id = id}).route());
    calls.push_back(incr.route());
  }
  for (auto& call : calls) value_of(std::move(call));
  const Numbers values = everywhere(service);
  const auto home = service.session_map().at(id);
  // Those without go round; the session is one replica's.
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], i == home ? 40 : 10) << i;
}

TEST_F(Scenario, WhatASessionLeavesIsItsReplicasNotTheNextSessions) {
  const Service service = counters({.num_replicas = 2});
  const auto incr = service.endpoint<void()>("incr");
  {
    const Session session = service.session();
    for (int i = 0; i < 5; ++i) value_of(incr.route());
    EXPECT_EQ(service.session_map().count(session.id()), 1U);
    EXPECT_EQ(service.get_metrics().total_sessions, 1U);
  }
  EXPECT_TRUE(service.session_map().empty());
  EXPECT_EQ(service.get_metrics().total_sessions, 0U);
  EXPECT_EQ(service.get_metrics().get_sessions_per_replica(), 0);
  EXPECT_THAT(everywhere(service), UnorderedElementsAre(0, 5)) << "actors keep what they have";
}

TEST_F(Scenario, ASessionMovesWhenItsReplicaFailsAndStaysWhereItWent) {
  const Service service = counters({.num_replicas = 2, .restart = restart_at_once()});
  const auto add = service.endpoint<std::int64_t(std::int64_t, std::int64_t)>("add");
  const auto mine = add.with({.sess_id = "s"});
  EXPECT_EQ(value_of(mine.route(7, 1)), 7);
  const auto home = service.session_map().at("s");
  const auto incarnation = service.replicas().at(home).incarnation;
  kill_and_wait(service.replicas().at(home).pids.at(0));
  ASSERT_TRUE(wait_restarted(service, home, incarnation));
  EXPECT_EQ(value_of(mine.route(1, 1)), 1) << "the state died with the replica";
  const auto next = service.session_map().at("s");
  for (int i = 2; i < 10; ++i) EXPECT_EQ(value_of(mine.route(1, 1)), i);
  EXPECT_EQ(service.session_map().at("s"), next);
  EXPECT_THAT(everywhere(service), UnorderedElementsAre(0, 9));
}

TEST_F(Scenario, OtherSessionsDoNotNoticeAFailure) {
  const Service service = counters({.num_replicas = 2, .restart = restart_at_once()});
  const auto add = service.endpoint<std::int64_t(std::int64_t, std::int64_t)>("add");
  value_of(add.with({.sess_id = "a"}).route(1, 1));
  value_of(add.with({.sess_id = "b"}).route(1, 1));
  const auto before = service.session_map();
  ASSERT_NE(before.at("a"), before.at("b"));
  ::kill(service.replicas().at(before.at("a")).pids.at(0), SIGKILL);
  for (int i = 2; i < 200; ++i) EXPECT_EQ(value_of(add.with({.sess_id = "b"}).route(1, 1)), i);
  EXPECT_EQ(service.session_map().at("b"), before.at("b"));
}

TEST_F(TorchforgeDefect, AnApplicationErrorDoesNotRestartTheReplica) {
  const Service service = faulty({.num_replicas = 2});
  const auto fail = service.endpoint<void(std::string)>("throw_error");
  const auto pid = service.endpoint<std::int64_t()>("pid");
  const auto of = [&](const char* id) { return value_of(pid.with({.sess_id = id}).route()); };
  const auto a = of("a");
  const auto b = of("b");
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(error_of<ActorError>(fail.with({.sess_id = "a"}).route(std::string("no"))),
                HasSubstr("no"));
    error_of<ActorError>(fail.route(std::string("nor here")));
    EXPECT_EQ(of("a"), a);
    EXPECT_EQ(of("b"), b);
  }
  for (const auto& replica : service.replicas()) {
    EXPECT_EQ(replica.state, ReplicaState::healthy);
    EXPECT_EQ(replica.incarnation, 1U);
  }
}

/// Where sessions are placed: one line of the table is one step.
TEST_F(Scenario, SessionsArePlacedByThisTable) {
  const Service service =
      controller.load(plugin_path("tasks"))
          .actor("Tasks")
          .options({.num_replicas = 3, .routers = {{"hold", std::make_shared<PinRouter>(0)}}})
          .as_service();
  const auto plain = service.endpoint<Map>("plain");
  const auto hold = service.endpoint<std::int64_t(std::int64_t, Bytes)>("hold");
  const CancelSource source;
  std::vector<Future<std::int64_t>> held;
  struct Step {
    const char* what;
    char deed;  // 's'tart a session, 'e'nd one, 'l'oad replica 0
    const char* id;
    std::uint32_t home;
  };
  for (const Step& step : {
           Step{"all idle: the first", 's', "a", 0},
           Step{"equal load: fewest sessions", 's', "b", 1},
           Step{"and again", 's', "c", 2},
           Step{"all have one: the first", 's', "d", 0},
           Step{"one leaves", 'e', "b", 1},
           Step{"its place is taken", 's', "e", 1},
           Step{"two leave", 'e', "a", 0},
           Step{"replica 0 has none", 'e', "d", 0},
           Step{"but it works", 'l', "", 0},
           Step{"load counts first", 's', "f", 1},
           Step{"then sessions", 's', "g", 2},
           Step{"then the index", 's', "h", 1},
           Step{"an old one stays, whatever the load", 's', "c", 2},
       }) {
    SCOPED_TRACE(step.what);
    if (step.deed == 'e') {
      service.terminate_session(step.id);
      EXPECT_EQ(service.session_map().count(step.id), 0U);
    } else if (step.deed == 'l') {
      held.push_back(hold.with({.cancel = source.token()}).route(1, Bytes()));
    } else {
      value_of(plain.with({.sess_id = step.id}).route(1));
      EXPECT_EQ(service.session_map().at(step.id), step.home);
    }
  }
  source.cancel();
}

// ---- replicas that fail

TEST_F(Scenario, AReplicaGoesThroughItsStates) {
  // The second death without an answer in between waits for an hour: time to look at it.
  const Service service = faulty(
      {.num_replicas = 2, .restart = {.backoff_initial = 1h, .backoff_max = 1h, .max_deaths = 2}});
  const auto crash = [&] {
    const int crashing = service.replicas().at(1).pids.at(0);
    ::kill(crashing, SIGABRT);
    return wait_until([&] {
      const auto pids = service.replicas().at(1).pids;
      return gone(crashing) && (pids.empty() || pids.at(0) != crashing);
    });
  };
  const auto pid = service.endpoint<std::int64_t()>("pid");
  const auto state = [&] { return service.replicas().at(1).state; };
  const auto healthy = [&] { return service.get_metrics().healthy_replicas; };
  EXPECT_EQ(state(), ReplicaState::healthy);
  EXPECT_EQ(healthy(), 2U);
  ASSERT_TRUE(crash());
  ASSERT_TRUE(wait_restarted(service, 1, 1));
  EXPECT_EQ(healthy(), 2U);
  ASSERT_TRUE(crash());
  EXPECT_EQ(state(), ReplicaState::recovering);
  EXPECT_EQ(healthy(), 1U);
  EXPECT_EQ(service.get_metrics().total_replicas, 2U);
  EXPECT_TRUE(service.replicas().at(1).pids.empty());
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(value_of(pid.route()), service.replicas().at(0).pids.at(0)) << "the other serves";
  EXPECT_THAT(value_of(pid.fanout()), SizeIs(1)) << "to those that are healthy";
  EXPECT_EQ(service.get_metrics_summary().replicas.at(1).restarts, 1U);
}

TEST_F(Scenario, AFailureIsReplacedWhileCallsGoOn) {
  const Service service = faulty({.num_replicas = 3, .restart = restart_at_once()});
  const auto echo = service.endpoint<Map>("echo_idempotent");
  const auto victim = service.replicas().at(1);
  std::vector<Future<std::int64_t>> calls;
  for (int i = 0; i < 300; ++i) {
    if (i == 100) ::kill(victim.pids.at(0), SIGKILL);
    calls.push_back(echo.route(i));
  }
  for (int i = 0; i < 300; ++i)
    EXPECT_EQ(value_of(std::move(calls[static_cast<std::size_t>(i)])), i);
  ASSERT_TRUE(wait_restarted(service, 1, victim.incarnation));
  EXPECT_NE(service.replicas().at(1).pids.at(0), victim.pids.at(0));
  EXPECT_THAT(value_of(service.endpoint<std::int64_t()>("pid").fanout()), SizeIs(3));
}

TEST_F(Scenario, AFanoutReachesAllAndCallsOfASessionOne) {
  const Service service = counters({.num_replicas = 3});
  const auto incr = service.endpoint<void()>("incr");
  EXPECT_THAT(value_of(incr.fanout()), SizeIs(3));
  EXPECT_THAT(everywhere(service), Each(1));
  {
    const Session session = service.session();
    value_of(incr.route());
    EXPECT_THAT(value_of(incr.fanout()), SizeIs(3)) << "inside a session too";
    const auto home = service.session_map().at(session.id());
    const Numbers values = everywhere(service);
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], i == home ? 3 : 2);
  }
}

TEST_F(Scenario, AFanoutLeavesOutWhoIsNotThere) {
  const Service service = faulty({.num_replicas = 3, .restart = {.max_deaths = 0}});
  const auto pids = [&] {
    Numbers result;
    for (auto& share : value_of(service.endpoint<std::int64_t()>("pid").fanout()))
      result.push_back(share.value());
    return result;
  };
  const Numbers before = pids();
  ASSERT_THAT(before, SizeIs(3));
  ::kill(service.replicas().at(1).pids.at(0), SIGABRT);
  ASSERT_TRUE(
      wait_until([&] { return service.replicas().at(1).state == ReplicaState::quarantined; }));
  EXPECT_THAT(pids(), ElementsAre(before[0], before[2])) << "in order of replica";
}

// ---- several at once

TEST_F(Scenario, ServicesOfOneActorAreApart) {
  const Service one = counters({.num_replicas = 2, .name = "one"}, 10);
  const Service two = counters({.num_replicas = 1, .name = "two"}, 100);
  value_of(one.endpoint<void()>("incr").fanout());
  EXPECT_THAT(everywhere(one), ElementsAre(11, 11));
  EXPECT_THAT(everywhere(two), ElementsAre(100));
  const Session session = one.session();
  value_of(one.endpoint<void()>("incr").route());
  EXPECT_TRUE(two.session_map().empty());
  EXPECT_EQ(two.get_metrics().total_sessions, 0U);
}

TEST_F(Scenario, ThreadsWithSessionsAndWithoutLoseNoCount) {
  const Service service = counters({.num_replicas = 3});
  const auto incr = service.endpoint<void()>("incr");
  const auto value = service.endpoint<std::int64_t()>("value");
  constexpr int kThreads = 6;
  constexpr int kCalls = 200;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      if (t % 2 == 0) {
        const Session session = service.session();
        std::int64_t last = 0;
        for (int i = 0; i < kCalls; ++i) {
          value_of(incr.route());
          const std::int64_t now = value_of(value.route());
          EXPECT_GT(now, last) << "a session reads what it wrote";
          last = now;
        }
      } else {
        for (int i = 0; i < kCalls; ++i) value_of(incr.route());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const Numbers values = everywhere(service);
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), std::int64_t{0}), kThreads * kCalls);
}

// ---- metrics

TEST_F(Scenario, MetricsHaveTheNamesPeopleKnow) {
  const Service service = counters({.num_replicas = 2});
  const auto incr = service.endpoint<void()>("incr");
  for (int i = 0; i < 10; ++i) value_of(incr.route());
  value_of(incr.with({.sess_id = "s"}).route());
  const auto summary = service.get_metrics_summary();
  EXPECT_EQ(summary.replicas.at(0).total_requests + summary.replicas.at(1).total_requests, 11U);
  const auto json = nlohmann::json::parse(summary.to_json());
  EXPECT_EQ(json.at("service").at("total_sessions"), 1);
  EXPECT_EQ(json.at("service").at("healthy_replicas"), 2);
  EXPECT_EQ(json.at("service").at("total_replicas"), 2);
  EXPECT_EQ(json.at("service").at("sessions_per_replica"), 0.5);
  for (const char* name : {"total_request_rate", "avg_queue_depth", "avg_capacity_utilization",
                           "last_scale_event", "scale_events"})
    EXPECT_TRUE(json.at("service").contains(name)) << name;
  ASSERT_EQ(json.at("replicas").size(), 2U);
  for (const auto& replica : json.at("replicas")) {
    for (const char* name :
         {"total_requests", "successful_requests", "failed_requests", "request_rate", "avg_latency",
          "active_requests", "queue_depth", "assigned_sessions", "capacity_utilization"})
      EXPECT_TRUE(replica.contains(name)) << name;
  }
}

// ---- batches and routers

TEST_F(Scenario, ABatchOfSeveralArgumentsKeepsThemTogether) {
  const Service service = batches({});
  const auto labelled = service.endpoint<std::string(std::string, std::int64_t)>("labelled");
  std::vector<Future<std::string>> futures;
  for (int i = 0; i < 12; ++i) futures.push_back(labelled.route("n" + std::to_string(i), i * i));
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(value_of(std::move(futures[static_cast<std::size_t>(i)])),
              "n" + std::to_string(i) + "=" + std::to_string(i * i));
  }
}

/// Counts how often it is asked, and sends all to the last.
struct CountingRouter : Router {
  const Replica& get_replica(std::span<const Replica> healthy, const RouteContext&) override {
    ++asked;
    return healthy.back();
  }
  std::atomic<int> asked{0};
};

TEST_F(Scenario, ARouterIsAskedOncePerBatch) {
  const auto router = std::make_shared<CountingRouter>();
  const Service service = batches({.num_replicas = 2, .routers = {{"patient", router}}});
  const auto patient = service.endpoint<Map>("patient");  // batches of 4
  std::vector<Future<std::int64_t>> futures;
  for (int i = 0; i < 12; ++i) futures.push_back(patient.route(i));
  const Numbers answers = numbers(futures);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(answers[static_cast<std::size_t>(i)], 2 * i);
  EXPECT_EQ(router->asked, 3);
  const auto sizes = value_of(service.endpoint<Numbers()>("sizes").fanout());
  EXPECT_THAT(sizes.at(0).value(), SizeIs(0));
  EXPECT_THAT(sizes.at(1).value(), ElementsAre(4, 4, 4));
}

TEST_F(Scenario, ARouterIsNotAskedForCallsOfSessions) {
  const auto router = std::make_shared<CountingRouter>();
  const Service service =
      batches({.num_replicas = 3, .routers = {{"patient", router}, {"pid", router}}});
  const auto patient = service.endpoint<Map>("patient");
  auto waiting = patient.route(1);
  EXPECT_EQ(value_of(patient.with({.sess_id = "s"}).route(21)), 42) << "alone and at once";
  EXPECT_FALSE(waiting.wait_for(0s)) << "the batch waits for its own";
  const auto home = service.session_map().at("s");
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(value_of(service.endpoint<std::int64_t()>("pid").with({.sess_id = "s"}).route()),
              service.replicas().at(home).pids.at(0));
  }
  EXPECT_EQ(router->asked, 0);
  std::vector<Future<std::int64_t>> rest;
  for (int i = 2; i < 5; ++i) rest.push_back(patient.route(i));
  EXPECT_THAT(numbers(rest), ElementsAre(4, 6, 8));
  EXPECT_EQ(value_of(std::move(waiting)), 2);
  EXPECT_EQ(router->asked, 1);
}

TEST_F(Scenario, BatchesGoWhereTheirRouterSendsThem) {
  // Two endpoints, each with its own: one in turn, one to who has least to do.
  const Service service =
      batches({.num_replicas = 2,
               .endpoints = {
                   {"patient", {.batch_size = 2, .batch_timeout = 1h}},
                   {"strict", {.router = "least_loaded", .batch_size = 2, .batch_timeout = 1h}}}});
  const auto patient = service.endpoint<Map>("patient");
  const auto strict = service.endpoint<Map>("strict");
  std::vector<Future<std::int64_t>> futures;
  for (int i = 0; i < 8; ++i) futures.push_back(patient.route(i));
  numbers(futures);
  for (auto& seen : value_of(service.endpoint<Numbers()>("sizes").fanout()))
    EXPECT_THAT(seen.value(), ElementsAre(2, 2));
  for (int i = 0; i < 3; ++i) {  // all idle each time: the first of equals
    std::vector<Future<std::int64_t>> pair;
    for (int k = 0; k < 2; ++k) pair.push_back(strict.route(k));
    numbers(pair);
  }
  const auto sizes = value_of(service.endpoint<Numbers()>("sizes").fanout());
  EXPECT_THAT(sizes.at(0).value(), ElementsAre(2, 2, 2, 2, 2));
  EXPECT_THAT(sizes.at(1).value(), ElementsAre(2, 2));
}

TEST_F(Scenario, ABatchWhoseRouterRefusesTellsAllOfIt) {
  struct Refusing : Router {
    const Replica& get_replica(std::span<const Replica>, const RouteContext&) override {
      throw Unavailable("not today");
    }
  };
  const Service service = batches({.routers = {{"patient", std::make_shared<Refusing>()}}});
  std::vector<Future<std::int64_t>> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(service.endpoint<Map>("patient").route(i));
  for (auto& future : futures)
    EXPECT_THAT(error_of<Unavailable>(std::move(future)), HasSubstr("not today"));
  EXPECT_EQ(value_of(service.endpoint<Map>("single").route(4)), 8);
}

/// As torchforge's session router: by session where there is one, else as another router says.
TEST_F(Scenario, ARouterSeesTheSessionMap) {
  struct Follow : Router {
    const Replica& get_replica(std::span<const Replica> healthy,
                               const RouteContext& context) override {
      const auto found = context.session_map.find(context.key);
      for (const Replica& replica : healthy) {
        if (found != context.session_map.end() && replica.idx == found->second) return replica;
      }
      return fallback.get_replica(healthy, context);
    }
    LeastLoadedRouter fallback;
  };
  const Service service =
      counters({.num_replicas = 3, .routers = {{"incr", std::make_shared<Follow>()}}});
  const auto value = service.endpoint<std::int64_t()>("value");
  const auto incr = service.endpoint<void()>("incr");
  for (const char* id : {"a", "b", "c"}) value_of(value.with({.sess_id = id}).route());
  for (int i = 0; i < 4; ++i) value_of(incr.with({.key = "c"}).route());
  value_of(incr.with({.key = "nobody"}).route());
  Numbers expected(3);
  expected[service.session_map().at("c")] += 4;
  expected[0] += 1;  // all idle: the first
  EXPECT_EQ(everywhere(service), expected);
}

}  // namespace
}  // namespace forge::e2e
