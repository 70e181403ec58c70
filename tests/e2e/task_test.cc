// Coroutine endpoints: calls that interleave in one actor; and tasks of the embedding program.
#include <signal.h>

#include <algorithm>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Numbers = std::vector<std::int64_t>;
using Nap = std::int64_t(std::int64_t, std::int64_t);

class Tasks : public ::testing::Test {
 protected:
  Service serve(Options options = {}) {
    return plugin.actor("Tasks").options(std::move(options)).as_service();
  }
  static std::int64_t most(const Service& service) {
    return value_of(service.endpoint<std::int64_t()>("most_at_once").route());
  }

  Controller controller{quiet()};
  Plugin plugin = controller.load(plugin_path("tasks"));
};

TEST_F(Tasks, InterleaveUpToTheLimit) {
  const Service service = serve({.replica_max_concurrent_requests = 4});
  const auto nap = service.endpoint<Nap>("nap");
  std::vector<Future<std::int64_t>> futures;
  for (std::int64_t i = 0; i < 12; ++i) futures.push_back(nap.route(i, 20));
  for (std::int64_t i = 0; i < 12; ++i) EXPECT_EQ(value_of(std::move(futures[i])), i);
  EXPECT_EQ(most(service), 4);
}

TEST_F(Tasks, AnswerAsTheyEnd) {
  const Service service = serve();
  const auto nap = service.endpoint<Nap>("nap");
  const CancelSource source;
  auto slow = service.endpoint<std::int64_t(std::int64_t, Bytes)>("hold")
                  .with({.cancel = source.token()})
                  .route(1, Bytes());
  for (std::int64_t i = 0; i < 300; ++i) EXPECT_EQ(value_of(nap.route(i, 0)), i);
  EXPECT_EQ(value_of(service.endpoint<std::int64_t(std::int64_t)>("plain").route(5)), 5);
  EXPECT_FALSE(slow.wait_for(0ms)) << "others do not wait for it, nor for its place in the ring";
  source.cancel();
  error_of<Cancelled>(std::move(slow));
}

TEST_F(Tasks, AwaitEachOther) {
  const Service service = serve();
  EXPECT_EQ(value_of(service.endpoint<std::int64_t(std::int64_t)>("sum").route(100)), 5050);
}

TEST_F(Tasks, ThrowLikeOthers) {
  const Service service = serve();
  const auto fail = service.endpoint<void(std::string)>("fail");
  EXPECT_THAT(error_of<ActorError>(fail.route(std::string("too late"))),
              ::testing::AllOf(HasSubstr("too late"), HasSubstr("runtime_error")));
  EXPECT_EQ(value_of(service.endpoint<Nap>("nap").route(1, 1)), 1);
}

TEST_F(Tasks, StayOnTheActorsThread) {
  const Service service = serve();
  const auto stays = service.endpoint<bool()>("stays_on_its_thread");
  std::vector<Future<bool>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(stays.route());
  for (auto& future : futures) EXPECT_TRUE(value_of(std::move(future)));
}

TEST_F(Tasks, HaveAContextOfTheirOwn) {
  const Service service = serve();
  const auto whose = service.endpoint<std::string(std::int64_t)>("whose");
  auto a = whose.with({.sess_id = "a"}).route(20);
  auto b = whose.with({.sess_id = "b"}).route(5);
  auto nobody = whose.route(10);
  EXPECT_EQ(value_of(std::move(a)), "a");
  EXPECT_EQ(value_of(std::move(b)), "b");
  EXPECT_EQ(value_of(std::move(nobody)), "");
}

TEST_F(Tasks, OfOneSessionRunOneByOneInOrder) {
  const Service service = serve();
  const auto note = service.endpoint<void(std::int64_t, std::int64_t)>("note");
  std::vector<Future<void>> futures;
  for (std::int64_t i = 1; i <= 4; ++i)
    futures.push_back(note.with({.sess_id = "one"}).route(i, 10 - 2 * i));
  for (auto& future : futures) await(std::move(future)).value();
  EXPECT_THAT(value_of(service.endpoint<Numbers()>("notes").route()),
              ElementsAre(1, -1, 2, -2, 3, -3, 4, -4));
}

TEST_F(Tasks, OfASessionRunOneByOneWithTheSharesOnItsReplica) {
  const Service service = serve({.num_replicas = 2});
  const auto note = service.endpoint<void(std::int64_t, std::int64_t)>("note");
  const auto mine = note.with({.sess_id = "one"});
  const auto notes = service.endpoint<Numbers()>("notes").with({.sess_id = "one"});
  auto first = mine.route(1, 60);
  auto shares = mine.fanout(2, 20);
  const CancelSource source;
  auto dropped = note.with({.sess_id = "one", .cancel = source.token()}).fanout(3, 0);
  auto last = mine.route(4, 0);
  source.cancel();
  await(std::move(first)).value();
  for (const auto& share : value_of(std::move(shares))) EXPECT_EQ(outcome(share), "ok");
  error_of<Cancelled>(std::move(dropped));
  await(std::move(last)).value();
  EXPECT_THAT(value_of(notes.route()), ElementsAre(1, -1, 2, -2, 4, -4));
  // A session that begins with a fanout sticks to a replica from then on.
  const auto other = note.with({.sess_id = "two"});
  auto begins = other.fanout(5, 40);
  auto goes_on = other.route(6, 0);
  value_of(std::move(begins));
  await(std::move(goes_on)).value();
  EXPECT_THAT(value_of(service.endpoint<Numbers()>("notes").with({.sess_id = "two"}).route()),
              ::testing::IsSupersetOf({5, -5, 6, -6}));
  const auto all = value_of(service.endpoint<Numbers()>("notes").with({.sess_id = "two"}).route());
  EXPECT_LT(std::ranges::find(all, -5), std::ranges::find(all, 6));
}

TEST_F(Tasks, OfASessionKeepTheirOrderWhenSomeEndEarly) {
  const Service service = serve();
  const auto note = service.endpoint<void(std::int64_t, std::int64_t)>("note");
  const auto mine = note.with({.sess_id = "one"});
  const CancelSource source;
  auto first = mine.route(1, 30);
  auto dropped = note.with({.sess_id = "one", .cancel = source.token()}).route(2, 0);
  auto late = note.with({.sess_id = "one", .timeout = 1ms}).route(3, 0);
  auto last = mine.route(4, 0);
  source.cancel();
  error_of<Cancelled>(std::move(dropped));
  error_of<DeadlineExceeded>(std::move(late));
  await(std::move(first)).value();
  await(std::move(last)).value();
  EXPECT_THAT(value_of(service.endpoint<Numbers()>("notes").route()), ElementsAre(1, -1, 4, -4));
}

TEST_F(Tasks, OfASessionKeepTheirOrderOverADeath) {
  const Service service = serve({.num_replicas = 2, .restart = {.backoff_initial = 0ms}});
  const auto nap = service.endpoint<Nap>("nap_idempotent").with({.sess_id = "one"});
  std::vector<Future<std::int64_t>> futures;
  for (std::int64_t i = 0; i < 10; ++i) futures.push_back(nap.route(i, 5));
  const auto replica = service.session_map().at("one");
  ::kill(service.replicas().at(replica).pids.at(0), SIGKILL);
  for (std::int64_t i = 0; i < 10; ++i) EXPECT_EQ(value_of(std::move(futures[i])), i);
}

TEST_F(Tasks, OfASessionAreAllToldWhenNobodyComesBack) {
  const TemporaryFolder folder;
  const std::string path = folder.file("libtasks.so");
  std::filesystem::copy_file(plugin_path("tasks"), path);
  const Service service =
      controller.load(path)
          .actor("Tasks")
          .options({.restart = {.max_deaths = 0}, .max_queued_requests = 200'000})
          .as_service();
  std::filesystem::remove(path);  // the next life does not come up
  const auto nap = service.endpoint<Nap>("nap").with({.sess_id = "one"});
  std::vector<Future<std::int64_t>> all;  // each is released by the end of the one before it
  for (std::int64_t i = 0; i < 100'000; ++i) all.push_back(nap.route(i, i == 0 ? 3'600'000 : 0));
  error_of<WorkerLost>(service.endpoint<void()>("die").route());
  std::map<std::string, std::size_t> told;
  for (auto& future : all) ++told[outcome(await(std::move(future)))];
  EXPECT_EQ(told["worker_lost"], 1U);
  EXPECT_GT(told["unavailable"], 0U);
}

TEST_F(Tasks, OfASessionThatWaitCountAsQueued) {
  const Service service = serve({.replica_max_concurrent_requests = 1, .max_queued_requests = 3});
  const auto nap = service.endpoint<Nap>("nap").with({.sess_id = "one"});
  std::vector<Future<std::int64_t>> all;
  for (std::int64_t i = 0; i < 4; ++i) all.push_back(nap.route(i, 20));
  error_of<Backpressure>(nap.route(4, 0));
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(value_of(std::move(all[i])), i);
}

TEST_F(Tasks, SeeThatNobodyWaitsHoweverManyAreOpen) {
  const Service service = serve();
  const auto loop = service.endpoint<bool(std::int64_t)>("until_cancelled");
  const auto was = service.endpoint<bool()>("was_cancelled");
  const auto nap = service.endpoint<Nap>("nap");
  const CancelSource source;
  auto future = loop.with({.cancel = source.token()}).route(60'000);
  value_of(nap.route(0, 0));  // it came behind, so the first one runs
  const CancelSource others;
  std::vector<Future<std::int64_t>> behind;
  for (std::int64_t i = 0; i < 2000; ++i)
    behind.push_back(nap.with({.cancel = others.token()}).route(i, 1));
  EXPECT_FALSE(future.wait_for(5ms));
  source.cancel();
  others.cancel();
  error_of<Cancelled>(std::move(future));
  while (!value_of(was.route())) std::this_thread::sleep_for(1ms);
}

TEST_F(Tasks, SeeThatNobodyWaits) {
  const Service service = serve();
  const auto loop = service.endpoint<bool(std::int64_t)>("until_cancelled");
  const auto was = service.endpoint<bool()>("was_cancelled");
  const CancelSource source;
  auto future = loop.with({.cancel = source.token()}).route(20'000);
  value_of(service.endpoint<Nap>("nap").route(0, 0));  // it came behind, so the first one runs
  EXPECT_FALSE(future.wait_for(20ms));
  source.cancel();
  error_of<Cancelled>(std::move(future));
  while (!value_of(was.route())) std::this_thread::sleep_for(1ms);
  error_of<DeadlineExceeded>(loop.with({.timeout = 10ms}).route(20'000));
  while (!value_of(was.route())) std::this_thread::sleep_for(1ms);
}

TEST_F(Tasks, AreBatchedToo) {
  const Service service = serve();
  const auto doubled = service.endpoint<std::int64_t(std::int64_t)>("doubled");
  std::vector<Future<std::int64_t>> futures;
  for (std::int64_t i = 0; i < 16; ++i) futures.push_back(doubled.route(i));
  for (std::int64_t i = 0; i < 16; ++i) EXPECT_EQ(value_of(std::move(futures[i])), 2 * i);
  EXPECT_GT(most(service), 1) << "batches interleave";
}

TEST_F(Tasks, RunOneByOneInLockstep) {
  const Service service = serve({.procs = 2});
  const auto nap = service.endpoint<Nap>("nap");
  std::vector<Future<std::int64_t>> futures;
  for (std::int64_t i = 0; i < 6; ++i) futures.push_back(nap.route(i, 3));
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(value_of(std::move(futures[i])), i);
  EXPECT_EQ(most(service), 1);
}

TEST_F(Tasks, ThatHadStartedAreLostAndOthersAreReplayed) {
  const Service service =
      serve({.replica_max_concurrent_requests = 2, .restart = {.backoff_initial = 0ms}});
  const auto nap = service.endpoint<Nap>("nap");
  auto die = service.endpoint<void()>("die").route();
  auto beside = nap.route(1, 5000);
  auto behind = nap.route(2, 0);  // no place until one of them ends
  error_of<WorkerLost>(std::move(die));
  error_of<WorkerLost>(std::move(beside));
  EXPECT_EQ(value_of(std::move(behind)), 2);
}

TEST_F(Tasks, AreEndedByShutdown) {
  Service service = serve();
  auto nap = service.endpoint<Nap>("nap").route(3, 100);
  service.shutdown();
  EXPECT_EQ(value_of(std::move(nap)), 3) << "within the grace period it ends by itself";
}

// ---- in the embedding program

TEST_F(Tasks, OfTheProgramSleepOnTheCallbackThread) {
  const auto work = [&](std::int64_t value) -> Task<std::int64_t> {
    co_await sleep_for(20ms);
    co_await sleep_for(1ms);
    co_return value;
  };
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Future<std::int64_t>> futures;
  for (std::int64_t i = 0; i < 50; ++i) futures.push_back(start(work(i)));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 50 * 21ms)
      << "starting one sleeps through it";
  for (std::int64_t i = 0; i < 50; ++i) EXPECT_EQ(value_of(std::move(futures[i])), i);
}

TEST_F(Tasks, TakeTheirSessionsAlong) {
  const Service service = serve({.num_replicas = 3});
  const auto whose = service.endpoint<std::string(std::int64_t)>("whose");
  const auto talk = [&]() -> Task<bool> {
    const Session session = service.session();
    bool mine = co_await whose.route(1) == session.id();
    co_await sleep_for(3ms);
    mine = mine && co_await whose.route(1) == session.id();
    {
      const Session inner = service.session();
      mine = mine && co_await whose.route(1) == inner.id();
    }
    co_return mine&& co_await whose.route(0) == session.id();
  };
  std::vector<Future<bool>> futures;
  for (int i = 0; i < 20; ++i) {
    futures.push_back(start(talk()));
    EXPECT_EQ(value_of(whose.route(0)), "") << "this thread has no session";
  }
  for (auto& future : futures) EXPECT_TRUE(value_of(std::move(future)));
  EXPECT_EQ(value_of(start([&]() -> Task<std::string> { co_return co_await whose.route(0); }())),
            "");
}

TEST_F(Tasks, BeginWithoutTheSessionsOfTheThread) {
  const Service service = serve();
  const auto whose = service.endpoint<std::string(std::int64_t)>("whose");
  const Session session = service.session();
  const auto ask = [&]() -> Task<std::string> { co_return co_await whose.route(0); };
  EXPECT_EQ(value_of(start(ask())), "") << "it may outlive them";
  EXPECT_EQ(value_of(whose.route(0)), session.id());
}

}  // namespace
}  // namespace forge::e2e
