// Sessions: sticky, in order, per service, over deaths.
#include <algorithm>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::HasSubstr;

class SessionTest : public PayloadTest {
 protected:
  static std::int64_t pid(const Service& service) {
    return value_of(service.endpoint<std::int64_t()>("pid").route());
  }
  static std::int64_t pid(const Service& service, const std::string& id) {
    return value_of(service.endpoint<std::int64_t()>("pid").with({.sess_id = id}).route());
  }
  static Options restart_at_once(int replicas) {
    return {.num_replicas = replicas, .restart = {.backoff_initial = 0ms}};
  }
  /// Kills the replica that the session sticks to.
  static void kill_home(const Service& service, const std::string& id) {
    const auto replica = service.session_map().at(id);
    ::kill(service.replicas().at(replica).pids.at(0), SIGKILL);
  }
};
using Fault = SessionTest;

TEST_F(SessionTest, StickToOneReplica) {
  const Service service = serve({.num_replicas = 3});
  std::set<std::int64_t> replicas;
  for (int i = 0; i < 9; ++i) {
    const Session session = service.session();
    std::set<std::int64_t> pids;
    for (int call = 0; call < 5; ++call) pids.insert(pid(service));
    EXPECT_EQ(pids.size(), 1U);
  }
  for (int i = 0; i < 9; ++i) replicas.insert(pid(service));
  EXPECT_EQ(replicas.size(), 3U) << "calls without a session go round";
  EXPECT_TRUE(service.session_map().empty());
}

TEST_F(SessionTest, SpreadOverReplicas) {
  const Service service = serve({.num_replicas = 3});
  std::set<std::int64_t> pids;
  for (int i = 0; i < 3; ++i) pids.insert(pid(service, "user-" + std::to_string(i)));
  EXPECT_EQ(pids.size(), 3U) << "equal load: to the replica with the fewest sessions";
  EXPECT_EQ(service.session_map().size(), 3U);
}

TEST_F(SessionTest, AreKnownInsideTheActor) {
  const Service service = serve({.num_replicas = 2});
  const auto inside = service.endpoint<std::string()>("session");
  EXPECT_EQ(value_of(inside.route()), "");
  {
    const Session session = service.session();
    EXPECT_EQ(value_of(inside.route()), session.id());
    for (auto& share : value_of(inside.fanout())) EXPECT_EQ(share.value(), session.id());
  }
  EXPECT_EQ(value_of(inside.with({.sess_id = "mine"}).route()), "mine");
  EXPECT_EQ(value_of(inside.route()), "");
}

TEST_F(SessionTest, NestAndAffectOnlyTheirService) {
  const Service one = serve({.num_replicas = 2});
  const Service two = serve({.num_replicas = 2});
  const auto in_one = one.endpoint<std::string()>("session");
  const auto in_two = two.endpoint<std::string()>("session");
  const Session outer = one.session();
  EXPECT_EQ(value_of(in_two.route()), "");
  {
    const Session inner = one.session();
    const Session other = two.session();
    EXPECT_EQ(value_of(in_one.route()), inner.id());
    EXPECT_EQ(value_of(in_two.route()), other.id());
    EXPECT_EQ(value_of(in_one.with({.sess_id = "named"}).route()), "named") << "a name wins";
  }
  EXPECT_EQ(value_of(in_one.route()), outer.id());
  std::string elsewhere = "?";
  std::thread([&] { elsewhere = value_of(in_one.route()); }).join();
  EXPECT_EQ(elsewhere, "") << "a session belongs to its thread";
}

TEST_F(SessionTest, AreStartedAndTerminatedById) {
  const Service service = serve({.num_replicas = 4});
  const std::string id = service.start_session();
  EXPECT_NE(id, service.start_session());
  const auto home = pid(service, id);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(pid(service, id), home);
  EXPECT_EQ(service.session_map().count(id), 1U);
  service.terminate_session(id);
  EXPECT_EQ(service.session_map().count(id), 0U);
  service.terminate_session("nobody's");
}

TEST_F(SessionTest, KeepTheirOrder) {
  TemporaryFolder folder;
  const Tally tally(folder);
  const Service faulty = controller.load(plugin_path("faulty"))
                             .actor("Faulty")
                             .options({.num_replicas = 3})
                             .as_service();
  const auto record = faulty.endpoint<void(std::string, std::int64_t)>("record");
  const Session session = faulty.session();
  std::vector<Future<void>> all;
  for (int i = 0; i < 1000; ++i) all.push_back(record.route(tally.path(), i));
  for (auto& one : all) ASSERT_EQ(outcome(await(std::move(one))), "ok");
  const auto lines = tally.lines();
  EXPECT_EQ(lines.size(), 1000U);
  EXPECT_TRUE(std::ranges::is_sorted(lines));
}

TEST_F(Fault, SessionsReplicaLost) {
  TemporaryFolder folder;
  const Tally tally(folder);
  const Service faulty = controller.load(plugin_path("faulty"))
                             .actor("Faulty")
                             .options(restart_at_once(2))
                             .as_service();
  const auto record = faulty.endpoint<void(std::string, std::int64_t)>("record");
  const auto in_session = record.with({.sess_id = "s"});
  std::int64_t next = 0;
  for (int round = 0; round < 10; ++round) {
    std::vector<Future<void>> all;
    for (int i = 0; i < 100; ++i) all.push_back(in_session.route(tally.path(), next++));
    kill_home(faulty, "s");
    for (int i = 0; i < 100; ++i) all.push_back(in_session.route(tally.path(), next++));
    int lost = 0;
    for (auto& one : all) {
      const std::string how = outcome(await(std::move(one)));
      EXPECT_THAT(how, ::testing::AnyOf("ok", "worker_lost"));
      lost += how != "ok";
    }
    EXPECT_LE(lost, 1) << "only the one that ran";
  }
  const auto lines = tally.lines();
  EXPECT_GE(lines.size(), 1990U);
  EXPECT_TRUE(std::ranges::is_sorted(lines));
}

TEST_F(SessionTest, KeepTheirOrderWithASharesReplicaLost) {
  TemporaryFolder folder;
  const Tally tally(folder);
  // Its replicas take a while to start: a share waits for its own, and what is behind it for the share.
  const Service faulty = controller.load(plugin_path("faulty"))
                             .actor("FaultySetup")
                             .options({.num_replicas = 2, .restart = {.backoff_initial = 0ms}})
                             .as_service("sleep", 300, "");
  const auto record = faulty.endpoint<void(std::string, std::int64_t)>("record");
  const auto slow =
      faulty.endpoint<void(std::string, std::int64_t, std::int64_t)>("record_and_sleep_idempotent");
  auto first = slow.with({.sess_id = "s"}).route(tally.path(), 1, 100);
  ASSERT_TRUE(tally.wait_for(1));
  auto shares = record.with({.sess_id = "s"}).fanout(tally.path(), 2);
  auto behind = record.with({.sess_id = "s"}).route(tally.path(), 3);
  ASSERT_TRUE(tally.wait_for(2)) << "on the other replica";
  kill_home(faulty, "s");
  await(std::move(first)).value();
  for (const auto& share : value_of(std::move(shares))) EXPECT_EQ(outcome(share), "ok");
  auto after = record.with({.sess_id = "s"}).route(tally.path(), 4);
  await(std::move(behind)).value();
  await(std::move(after)).value();
  EXPECT_THAT(tally.lines(), ::testing::ElementsAre(1, 2, 1, 2, 3, 4));
}

TEST_F(SessionTest, KeepTheirOrderUnderSharesAndKills) {
  TemporaryFolder folder;
  const Service faulty = controller.load(plugin_path("faulty"))
                             .actor("Faulty")
                             .options({.num_replicas = 3, .restart = e2e::restart_at_once()})
                             .as_service();
  const auto record = faulty.endpoint<void(std::string, std::int64_t)>("record_idempotent");
  for (int round = 0; round < 8; ++round) {
    const Tally tally(folder, "tally" + std::to_string(round));
    const std::string id = faulty.start_session();
    const auto mine = record.with({.sess_id = id});
    std::vector<Future<void>> calls;
    std::vector<Future<std::vector<Result<void>>>> fanouts;
    for (int i = 0; i < 120; ++i) {
      if (i % 8 == 7) {
        fanouts.push_back(mine.fanout(folder.file("shares"), i));
      } else {
        calls.push_back(mine.route(tally.path(), 1'000'000 + i));
      }
      if (i % 40 == 20 && faulty.session_map().contains(id)) {
        const auto pids = faulty.replicas().at(faulty.session_map().at(id)).pids;
        if (!pids.empty()) ::kill(pids.at(0), SIGKILL);
      }
    }
    for (auto& call : calls) EXPECT_EQ(outcome(await(std::move(call))), "ok");
    for (auto& fanout : fanouts) {
      const auto shares = await(std::move(fanout));  // or nobody was healthy at that moment
      EXPECT_THAT(outcome(shares), ::testing::AnyOf("ok", "no_healthy_replicas"));
    }
    EXPECT_TRUE(std::ranges::is_sorted(tally.lines()));
    faulty.terminate_session(id);
  }
}

TEST_F(Fault, StrictSessionsReplicaLost) {
  const Service service = serve(restart_at_once(2));
  const std::string strict = service.start_session({.strict = true});
  const auto before = pid(service, strict);
  kill_home(service, strict);
  ASSERT_TRUE(wait_until([&] { return service.session_map().count(strict) == 0; }));
  const auto call = service.endpoint<std::int64_t()>("pid").with({.sess_id = strict});
  EXPECT_THAT(error_of<SessionLost>(call.route()), HasSubstr(strict));
  EXPECT_NE(value_of(call.route()), before) << "it goes on elsewhere";
}

TEST_F(SessionTest, ThatAreNotStrictGoOnElsewhere) {
  const Service service = serve(restart_at_once(2));
  const auto before = pid(service, "easy");
  kill_home(service, "easy");
  const auto call = service.endpoint<std::int64_t()>("pid").with({.sess_id = "easy"});
  EXPECT_NE(value_of(call.route()), before);
}

TEST_F(SessionTest, AreForgottenWhenIdle) {
  const Service service = serve({.num_replicas = 2, .session_idle_timeout = 40ms});
  for (int i = 0; i < 50; ++i) pid(service, "user-" + std::to_string(i));
  EXPECT_TRUE(wait_until([&] { return service.session_map().empty(); }));
  EXPECT_GT(pid(service, "user-1"), 0) << "and start anew when they come back";
}

TEST_F(SessionTest, ThatAreStrictHearOnceThatTheyWereForgotten) {
  const Service service = serve({.num_replicas = 2, .session_idle_timeout = 40ms});
  const Service other = serve();
  const std::string strict = service.start_session({.strict = true});
  const auto call = service.endpoint<std::int64_t()>("pid").with({.sess_id = strict});
  value_of(call.route());
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(wait_until([&] { return service.session_map().empty(); }));
    EXPECT_THAT(error_of<SessionLost>(call.route()), HasSubstr(strict));
    EXPECT_GT(value_of(call.route()), 0) << "it goes on";
    EXPECT_EQ(value_of(call.fanout()).size(), 2U);
  }
  ASSERT_TRUE(wait_until([&] { return service.session_map().empty(); }));
  EXPECT_THAT(error_of<SessionLost>(call.fanout()), HasSubstr(strict))
      << "a fanout is a call of it";
  EXPECT_GT(pid(other, strict), 0) << "for another service it is an id like any";
  EXPECT_GT(pid(service, service.start_session({.strict = true})), 0)
      << "a new one has lost nothing";
}

TEST_F(SessionTest, AreNotForMeshes) {
  const ActorMesh mesh = payloads.actor("Payloads").as_actor();
  const auto pid = mesh.endpoint<std::int64_t()>("pid");
  EXPECT_THAT(error_of<InvalidArgument>(pid.with({.sess_id = "s"}).call_one()),
              HasSubstr("no sessions"));
}

TEST_F(SessionTest, OfAServiceThatIsGoneEndQuietly) {
  Service service = serve();
  {
    const Session session = service.session();
    service.shutdown();
    EXPECT_THROW((void)service.start_session(), Stopped);
  }
}

}  // namespace
}  // namespace forge::e2e
