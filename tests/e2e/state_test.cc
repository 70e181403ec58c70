// State of sessions: what an actor keeps for them survives its replica.
#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::HasSubstr;
using Numbers = std::vector<std::int64_t>;
using Append = std::int64_t(std::int64_t);

class SessionState : public ::testing::Test {
 protected:
  Service start(Options options, const std::string& actor = "Notebook",
                const std::string& fault = "") {
    return plugin.actor(actor).options(std::move(options)).as_service(fault);
  }
  static Options two() { return {.num_replicas = 2, .restart = restart_at_once()}; }

  /// Kills where the session is, and waits until the service knows.
  static void lose(const Service& service, const std::string& id) {
    const auto map = service.session_map();
    ASSERT_TRUE(map.contains(id));
    const ReplicaStatus replica = service.replicas().at(map.at(id));
    ASSERT_FALSE(replica.pids.empty());
    kill_and_wait(replica.pids.at(0));
    ASSERT_TRUE(wait_until([&] { return !service.session_map().contains(id); }));
  }
  static Numbers numbers(const Service& service, const std::string& id) {
    return value_of(service.endpoint<Numbers()>("numbers").with({.sess_id = id}).route());
  }
  static void append(const Service& service, const std::string& id, std::int64_t from,
                     std::int64_t to) {
    const auto call = service.endpoint<Append>("append").with({.sess_id = id});
    for (std::int64_t i = from; i < to; ++i) EXPECT_EQ(value_of(call.route(i)), i + 1);
  }
  static Numbers up_to(std::int64_t end) {
    Numbers all;
    for (std::int64_t i = 0; i < end; ++i) all.push_back(i);
    return all;
  }

  Controller controller{quiet()};
  Plugin plugin = controller.load(plugin_path("notebook"));
};
using Fault = SessionState;

TEST_F(Fault, SessionsReplicaLostWithState) {
  Service service = start(two());
  std::int64_t next = 0;
  for (const int calls : {1, 0, 5, 31, 32, 33, 100}) {  // around a snapshot, and far from one
    append(service, "a", next, next + calls);
    next += calls;
    if (calls != 0) append(service, "b", next - calls, next);
    lose(service, "a");
    EXPECT_EQ(numbers(service, "a"), up_to(next));
    EXPECT_EQ(numbers(service, "b"), up_to(next)) << "wherever it was";
  }
  EXPECT_GE(service.counters().restored, 7U);
}

TEST_F(SessionState, ComesBackOnEveryRank) {
  Service service = start({.procs = 2,
                           .num_replicas = 2,
                           .return_first_rank_result = false,
                           .restart = restart_at_once()});
  const auto add =
      service.endpoint<ValueMesh<std::int64_t>(std::int64_t)>("append_rank").with({.sess_id = "s"});
  const auto all = service.endpoint<ValueMesh<Numbers>()>("numbers").with({.sess_id = "s"});
  for (std::int64_t i = 0; i < 50; ++i) (void)value_of(add.route(i));
  lose(service, "s");
  const ValueMesh<Numbers> numbers = value_of(all.route());
  for (std::size_t rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(numbers.at(rank).size(), 50U);
    for (std::size_t i = 0; i < 50; ++i)
      EXPECT_EQ(numbers.at(rank)[i], static_cast<std::int64_t>(10 * i + rank));
  }
}

TEST_F(SessionState, OfTensorsOwnsItsBytes) {
  Service service = plugin.actor("Canvas").options(two()).as_service();
  const auto paint =
      service.endpoint<std::int64_t(std::int64_t, float)>("paint").with({.sess_id = "s"});
  std::vector<float> wanted(4096);
  for (std::int64_t i = 0; i < 40; ++i) {
    (void)value_of(paint.route(i, static_cast<float>(i)));
    wanted[static_cast<std::size_t>(i)] = static_cast<float>(i);
  }
  for (int round = 0; round < 3; ++round) {
    lose(service, "s");
    const auto pixels = service.endpoint<std::vector<float>()>("pixels").with({.sess_id = "s"});
    EXPECT_EQ(value_of(pixels.route()), wanted);
  }
}

TEST_F(SessionState, OfStrictSessionsIsNotLost) {
  Service service = start(two());
  const std::string id = service.start_session({.strict = true});
  append(service, id, 0, 3);
  lose(service, id);
  EXPECT_EQ(numbers(service, id), up_to(3));
}

TEST_F(SessionState, KnowsCallsThatThrew) {
  Service service = start(two());
  const auto bad = service.endpoint<Append>("append_and_throw").with({.sess_id = "s"});
  append(service, "s", 0, 1);
  EXPECT_THAT(error_of<ActorError>(bad.route(1)), HasSubstr("all the same"));
  lose(service, "s");
  EXPECT_EQ(numbers(service, "s"), up_to(2));
}

TEST_F(SessionState, ThatCannotBeBroughtBackIsReportedOnce) {
  Service service = start(two(), "Notebook", "restore");
  append(service, "s", 0, 3);
  lose(service, "s");
  EXPECT_EQ(numbers(service, "s"), up_to(3)) << "it had not been saved yet: all calls run again";
  append(service, "s", 3, 64);
  lose(service, "s");
  const auto all = service.endpoint<Numbers()>("numbers").with({.sess_id = "s"});
  auto first = all.route();
  auto second = all.route();
  EXPECT_THAT(error_of<SessionLost>(std::move(first)), HasSubstr("'s'"));
  EXPECT_EQ(value_of(std::move(second)), Numbers{}) << "it begins anew";
}

TEST_F(SessionState, ThatCannotBeSavedIsMadeAgainAsLongAsCallsAreKept) {
  Service service = start(two(), "Notebook", "save");
  append(service, "s", 0, 100);
  lose(service, "s");
  EXPECT_EQ(numbers(service, "s"), up_to(100));
  append(service, "s", 100, 200);
  lose(service, "s");
  const auto all = service.endpoint<Numbers()>("numbers").with({.sess_id = "s"});
  (void)error_of<SessionLost>(all.route());
  EXPECT_EQ(value_of(all.route()), Numbers{});
}

TEST_F(SessionState, ThatKillsWhoeverBringsItBackIsGivenUp) {
  const TemporaryFolder folder;
  Service service = start(two());
  using Once = std::int64_t(std::int64_t, std::string);
  const auto once = service.endpoint<Once>("append_once").with({.sess_id = "s"});
  append(service, "other", 0, 5);
  EXPECT_EQ(value_of(once.route(0, folder.file("done"))), 1);
  lose(service, "s");
  const auto all = service.endpoint<Numbers()>("numbers").with({.sess_id = "s"});
  (void)error_of<SessionLost>(all.route());
  EXPECT_EQ(value_of(all.route()), Numbers{});
  EXPECT_EQ(numbers(service, "other"), up_to(5));
}

TEST_F(SessionState, LeavesWithItsReplicaInPeace) {
  Service service = start({.num_replicas = 2, .spares = 1});
  std::atomic<bool> done{false};
  std::thread roller([&] {
    service.restart_replicas();
    done = true;
  });
  std::int64_t next = 0;
  while (!done || next < 100) {
    for (const char* id : {"a", "b", "c"}) append(service, id, next, next + 1);
    ++next;
  }
  roller.join();
  for (const char* id : {"a", "b", "c"}) EXPECT_EQ(numbers(service, id), up_to(next));
  EXPECT_GT(service.counters().restored, 0U);
}

TEST_F(SessionState, DoesNotFillTheArena) {
  Options options = two();
  options.arena_bytes = 8 << 20;
  Service service = start(options);
  using AppendSize = std::int64_t(const Bytes&);
  const auto append = service.endpoint<AppendSize>("append_size");
  const Bytes large(512 << 10);
  for (std::int64_t round = 0; round < 30; ++round) {
    for (const char* id : {"a", "b", "c"})
      ASSERT_EQ(value_of(append.with({.sess_id = id}).route(large)), round + 1);
  }
  lose(service, "b");
  EXPECT_EQ(numbers(service, "b"), Numbers(30, std::ssize(large)));
  for (const char* id : {"a", "b", "c"}) service.terminate_session(id);
  EXPECT_TRUE(wait_until([&] {  // all of it is free again
    try {
      return service.allocate(DType::u8, {7 << 20}).bytes().size() == 7 << 20;
    } catch (const Backpressure&) {
      return false;
    }
  }));
}

TEST_F(SessionState, IsNotForCallers) {
  Service service = start({});
  const std::string text =
      message_of<UnknownEndpoint>([&] { (void)service.endpoint<Numbers()>("~save"); });
  EXPECT_THAT(text, HasSubstr("it has: append,"));
  append(service, "s", 0, 40);
  const std::string json = service.get_metrics_summary().to_json();
  EXPECT_THAT(json, ::testing::Not(HasSubstr("~save")));
  EXPECT_EQ(service.get_metrics_summary().replicas.at(0).total_requests, 40U);
}

TEST_F(SessionState, IsNoMatterOfMeshes) {
  const ActorMesh mesh = plugin.actor("Notebook").as_actor("");
  const auto call = mesh.endpoint<Append>("append");
  for (std::int64_t i = 0; i < 40; ++i) EXPECT_EQ(value_of(call.call_one(i)), i + 1);
}

struct Kind {
  std::string actor;
  std::string endpoint;
  int procs;
  int spares;
};

class SessionStateUnderKills : public SessionState, public ::testing::WithParamInterface<Kind> {};
INSTANTIATE_TEST_SUITE_P(All, SessionStateUnderKills,
                         ::testing::Values(Kind{"Notebook", "append", 1, 0},
                                           Kind{"Notebook", "append", 1, 1},
                                           Kind{"Notebook", "append", 2, 0},
                                           Kind{"TaskNotebook", "append_slowly", 1, 0}));

TEST_P(SessionStateUnderKills, IsWhatTheAnsweredCallsMadeOfIt) {
  const Footprint before = Footprint::now();
  {
    const Kind& kind = GetParam();
    Service service = start({.procs = kind.procs,
                             .num_replicas = 2,
                             .restart = restart_at_once(),
                             .spares = kind.spares},
                            kind.actor);
    std::minstd_rand random(static_cast<unsigned>(test_seed()));
    std::atomic<bool> done{false};
    std::thread killer([&] {
      for (int i = 0; i < 40; ++i) {
        const std::vector<int> pids = pids_of(service);
        if (!pids.empty()) ::kill(pids[random() % pids.size()], SIGKILL);
        std::this_thread::sleep_for(std::chrono::milliseconds(5 + random() % 30));
      }
      done = true;
    });
    const auto call = service.endpoint<Append>(kind.endpoint);
    constexpr int kSessions = 8;
    std::vector<Numbers> answered(kSessions);
    std::int64_t lost = 0;
    for (std::int64_t value = 0; !done;) {
      std::vector<std::vector<Future<std::int64_t>>> futures(kSessions);
      const std::int64_t first = value;
      for (int i = 0; i < 10; ++i, ++value) {
        for (std::size_t session = 0; session < kSessions; ++session) {
          const std::string id = "s" + std::to_string(session);
          futures[session].push_back(call.with({.sess_id = id}).route(value));
        }
      }
      for (std::size_t session = 0; session < kSessions; ++session) {
        for (std::int64_t i = 0; auto& future : futures[session]) {
          const auto result = await(std::move(future));
          const std::int64_t number = first + i++;
          if (result.has_value()) {
            answered[session].push_back(number);
            EXPECT_EQ(result.value(), std::ssize(answered[session])) << "session " << session;
          } else {  // killed three times while it ran
            EXPECT_EQ(outcome(result), "worker_lost");
            ++lost;
          }
        }
      }
    }
    killer.join();
    EXPECT_LE(lost, 4);
    for (std::size_t session = 0; session < kSessions; ++session)
      EXPECT_EQ(numbers(service, "s" + std::to_string(session)), answered[session]);
    EXPECT_GT(service.counters().restored, 0U);
  }
  EXPECT_TRUE(returns_to(before));
}

}  // namespace
}  // namespace forge::e2e
