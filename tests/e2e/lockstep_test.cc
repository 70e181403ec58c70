// Replicas and meshes of several ranks: what one rank sees, all see, in one order; one rank's death
// ends them all. The actor is linked in, so that ranks can behave differently.
#include <forge/plugin.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/e2e/fixture.h"

namespace {

/// Behaves differently by rank, and leaves a log for each rank of each life.
class Ranked : public forge::ForgeActor {
 public:
  std::int64_t ordinal() { return calls_++; }  ///< how many calls this rank had before
  std::int64_t pid() const { return ::getpid(); }

  /// Appends to the log of this life and rank, in one write.
  void note(const std::string& folder, std::int64_t value) {
    const auto& context = forge::context();
    const std::string path =
        folder + "/" + std::to_string(context.incarnation()) + "." + std::to_string(context.rank());
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    // Eight bytes divide a page: a write inside of one is whole or not there after a kill.
    char line[16];
    const int size = std::snprintf(line, sizeof(line), "%7d\n", static_cast<int>(value));
    if (::write(fd, line, static_cast<std::size_t>(size)) != size) std::abort();
    ::close(fd);
  }
  void note_and_sleep(const std::string& folder, std::int64_t value, std::vector<std::int64_t> ms) {
    note(folder, value);
    sleep(std::move(ms));
  }
  /// Each rank for its own time.
  std::int64_t sleep(std::vector<std::int64_t> ms) {
    const int rank = forge::context().rank();
    std::this_thread::sleep_for(std::chrono::milliseconds(ms.at(static_cast<std::size_t>(rank))));
    return rank;
  }
  /// The ranks named fail, each in its own words.
  std::int64_t fail(std::vector<std::int64_t> ranks) const {
    const int rank = forge::context().rank();
    if (std::ranges::find(ranks, rank) != ranks.end())
      throw std::runtime_error("rank " + std::to_string(rank) + " fails");
    return rank;
  }

 private:
  std::int64_t calls_ = 0;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Ranked>("Ranked", "Behaves differently by rank.")
      .endpoint("ordinal", &Ranked::ordinal)
      .endpoint("pid", &Ranked::pid)
      .endpoint("note", &Ranked::note)
      .endpoint("note_and_sleep", &Ranked::note_and_sleep)
      .service_endpoint("note_and_sleep_idempotent", &Ranked::note_and_sleep, {.idempotent = true})
      .endpoint("sleep", &Ranked::sleep)
      .endpoint("fail", &Ranked::fail);
}

namespace forge::e2e {
namespace {

constexpr std::int64_t kForEver = 600'000;  // ms; ended by a kill
using Note = void(const std::string&, std::int64_t);
using NoteAndSleep = void(const std::string&, std::int64_t, std::vector<std::int64_t>);
using Log = std::vector<std::int64_t>;

class Lockstep : public ::testing::TestWithParam<int> {
 protected:
  Service start(Options options) {
    options.procs = GetParam();
    options.restart = restart_at_once();
    options.health_poll_rate = 1h;
    return actors_.actor("Ranked").options(options).as_service();
  }
  std::vector<std::int64_t> all_ranks(std::int64_t ms) const {
    return std::vector<std::int64_t>(static_cast<std::size_t>(GetParam()), ms);
  }
  Log log(std::uint64_t incarnation, int rank) const {
    std::ifstream file(folder_.file(std::to_string(incarnation) + "." + std::to_string(rank)));
    Log values;
    for (std::int64_t value; file >> value;) values.push_back(value);
    return values;
  }
  /// All ranks have noted as many values.
  [[nodiscard]] bool wait_noted(std::uint64_t incarnation, std::size_t count) const {
    return wait_until([&] {
      for (int rank = 0; rank < GetParam(); ++rank) {
        if (log(incarnation, rank).size() < count) return false;
      }
      return true;
    });
  }

  TemporaryFolder folder_;
  const std::string path_ = folder_.file("");
  Controller controller_{quiet()};
  Plugin actors_ = controller_.self();
};
INSTANTIATE_TEST_SUITE_P(Procs, Lockstep, ::testing::Values(2, 3));

TEST_P(Lockstep, EveryRankExecutesEveryCallInOneOrder) {
  Service service = start({.return_first_rank_result = false});
  auto ordinal = service.endpoint<ValueMesh<std::int64_t>()>("ordinal");
  std::mutex mutex;
  std::set<std::int64_t> seen;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      std::vector<Future<ValueMesh<std::int64_t>>> futures;
      for (int i = 0; i < 200; ++i) futures.push_back(ordinal.route());
      for (auto& future : futures) {
        const auto values = await(std::move(future)).value();
        ASSERT_EQ(values.size(), static_cast<std::size_t>(GetParam()));
        for (const auto& [rank, value] : values) EXPECT_EQ(value, values.at(0)) << rank;
        const std::lock_guard lock(mutex);
        EXPECT_TRUE(seen.insert(values.at(0)).second);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(seen.size(), 600U);
  EXPECT_EQ(*seen.rbegin(), 599);
  std::vector<int> pids;
  for (const auto& [rank, pid] : service.endpoint<ValueMesh<std::int64_t>()>("pid").route().get())
    pids.push_back(static_cast<int>(pid));
  EXPECT_EQ(pids, service.replicas().at(0).pids);
}

TEST_P(Lockstep, OneRanksDeathRestartsAllAndReplaysToAll) {
  for (int victim = 0; victim < GetParam(); ++victim) {
    SCOPED_TRACE("victim " + std::to_string(victim));
    Service service = start({.return_first_rank_result = true});
    const auto first = service.replicas().at(0).pids;
    auto running =
        service.endpoint<NoteAndSleep>("note_and_sleep").route(path_, -1, all_ranks(kForEver));
    ASSERT_TRUE(wait_noted(1, 1));
    auto note = service.endpoint<Note>("note");
    std::vector<Future<void>> queued;
    Log expected;
    for (int value = 0; value < 400; ++value) {
      queued.push_back(note.route(path_, value));
      expected.push_back(value);
    }
    kill_and_wait(first.at(static_cast<std::size_t>(victim)));
    const auto lost = await(std::move(running));
    ASSERT_EQ(outcome(lost), "worker_lost");
    EXPECT_TRUE(dynamic_cast<const WorkerLost&>(lost.error()).maybe_executed());
    EXPECT_EQ(outcomes(queued), (Outcomes{{"ok", 400}}));
    EXPECT_EQ(service.replicas().at(0).incarnation, 2U);
    for (const int pid : first) EXPECT_TRUE(gone(pid));
    for (int rank = 0; rank < GetParam(); ++rank) {
      EXPECT_EQ(log(1, rank), Log{-1});
      EXPECT_EQ(log(2, rank), expected);
    }
    service.shutdown();
    for (const auto& file : std::filesystem::directory_iterator(path_))
      std::filesystem::remove(file);
  }
}

TEST_P(Lockstep, IdempotentCallsRunAgainInAllRanks) {
  Service service = start({});
  auto future =
      service.endpoint<NoteAndSleep>("note_and_sleep_idempotent").route(path_, 1, all_ranks(500));
  ASSERT_TRUE(wait_noted(1, 1));
  kill_and_wait(service.replicas().at(0).pids.back());
  EXPECT_EQ(outcome(await(std::move(future))), "ok");
  for (int rank = 0; rank < GetParam(); ++rank) EXPECT_EQ(log(2, rank), Log{1});
}

TEST_P(Lockstep, CallThatOneRankHasAnsweredIsLostWithAnother) {
  Service service = start({});
  const auto pids = service.replicas().at(0).pids;
  ::kill(pids.back(), SIGSTOP);
  auto note = service.endpoint<Note>("note");
  auto half = note.route(path_, 1);
  ASSERT_TRUE(wait_until([&] { return !log(1, 0).empty(); }));
  EXPECT_FALSE(half.wait_for(20ms));  // done when all have answered
  kill_and_wait(pids.back());
  const auto result = await(std::move(half));
  ASSERT_EQ(outcome(result), "worker_lost");
  EXPECT_TRUE(dynamic_cast<const WorkerLost&>(result.error()).maybe_executed());
  EXPECT_EQ(outcome(await(note.route(path_, 2))), "ok");
  EXPECT_EQ(log(1, GetParam() - 1), Log{});
  for (int rank = 0; rank < GetParam(); ++rank) EXPECT_EQ(log(2, rank), Log{2});
}

TEST_P(Lockstep, CallThatNoRankHadStartedIsReplayed) {
  Service service = start({});
  const auto pids = service.replicas().at(0).pids;
  for (const int pid : pids) ::kill(pid, SIGSTOP);
  auto future = service.endpoint<Note>("note").route(path_, 1);
  kill_and_wait(pids.front());
  EXPECT_EQ(outcome(await(std::move(future))), "ok");
  for (int rank = 0; rank < GetParam(); ++rank) {
    EXPECT_EQ(log(1, rank), Log{});
    EXPECT_EQ(log(2, rank), Log{1});
  }
}

TEST_P(Lockstep, AnErrorWinsAndThatOfTheLowestRankFirst) {
  Service service = start({});
  auto fail = service.endpoint<std::int64_t(std::vector<std::int64_t>)>("fail");
  const std::int64_t last = GetParam() - 1;
  EXPECT_EQ(await(fail.route(std::vector<std::int64_t>{})).value(), 0);
  for (const std::int64_t lowest : {std::int64_t{0}, std::int64_t{1}, last}) {
    std::vector<std::int64_t> ranks{last};
    if (lowest != last) ranks.push_back(lowest);
    const auto result = await(fail.route(ranks));
    ASSERT_EQ(outcome(result), "actor_error");
    EXPECT_EQ(dynamic_cast<const ActorError&>(result.error()).text(),
              "rank " + std::to_string(lowest) + " fails");
  }
}

TEST_P(Lockstep, RanksStayTogetherWhenADeadlinePassesBetweenThem) {
  Service service = start({.return_first_rank_result = false});
  auto delays = all_ranks(0);
  delays.back() = 400;  // the others are through at once
  auto slow =
      service.endpoint<ValueMesh<std::int64_t>(std::vector<std::int64_t>)>("sleep").route(delays);
  auto ordinal = service.endpoint<ValueMesh<std::int64_t>()>("ordinal");
  auto late = ordinal.with({.timeout = 200ms}).route();
  EXPECT_EQ(outcome(await(std::move(late))), "deadline_exceeded");
  EXPECT_EQ(outcome(await(std::move(slow))), "ok");
  const auto values = await(ordinal.route()).value();
  for (const auto& [rank, value] : values)
    EXPECT_EQ(value, values.at(0)) << "rank " << rank << " has skipped a call by itself";
}

TEST_P(Lockstep, KillsUnderLoadKeepTheRanksEqual) {
  std::minstd_rand random(static_cast<std::uint32_t>(test_seed()));
  Service service = start({});
  auto note = service.endpoint<Note>("note");
  constexpr int kThreads = 2;
  constexpr int kCalls = 3'000;
  std::vector<std::map<std::int64_t, std::string>> results(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::pair<std::int64_t, Future<void>>> window;
      for (std::int64_t i = 0; i < kCalls; ++i) {
        window.emplace_back(t * kCalls + i, note.route(path_, t * kCalls + i));
        if (window.size() < 200 && i + 1 < kCalls) continue;
        for (auto& [value, future] : window)
          results[static_cast<std::size_t>(t)][value] = outcome(await(std::move(future)));
        window.clear();
      }
    });
  }
  int kills = 0;
  for (; kills < 8; ++kills) {
    EXPECT_TRUE(wait_healthy(service));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 30));
    const auto pids = pids_of(service);
    if (!pids.empty()) ::kill(pids[random() % pids.size()], SIGKILL);
  }
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(wait_healthy(service));
  const std::uint64_t lives = service.replicas().at(0).incarnation;
  service.shutdown();

  std::map<std::int64_t, std::set<std::uint64_t>> lives_of;  // in which lives was it executed
  for (std::uint64_t life = 1; life <= lives; ++life) {
    Log longest = log(life, 0);
    for (int rank = 1; rank < GetParam(); ++rank) {
      Log other = log(life, rank);
      if (other.size() > longest.size()) std::swap(other, longest);
      EXPECT_TRUE(std::equal(other.begin(), other.end(), longest.begin()))
          << "life " << life << ": the ranks differ in order";
    }
    for (const std::int64_t value : longest) lives_of[value].insert(life);
    EXPECT_EQ(std::set<std::int64_t>(longest.begin(), longest.end()).size(), longest.size());
  }
  int lost = 0;
  for (const auto& of_thread : results) {
    for (const auto& [value, result] : of_thread) {
      EXPECT_LE(lives_of[value].size(), 1U) << value << " was executed twice";
      if (result == "ok") {
        EXPECT_EQ(lives_of[value].size(), 1U) << value;
      } else {
        EXPECT_EQ(result, "worker_lost");
        ++lost;
      }
    }
  }
  std::printf("%d kills, %d lost\n", kills, lost);
}

class Mesh : public Lockstep {};
INSTANTIATE_TEST_SUITE_P(Procs, Mesh, ::testing::Values(2));

TEST_P(Mesh, ARanksDeathLosesItsCallsTellsTheJobAndRestartsNothing) {
  std::mutex mutex;
  std::vector<ActorFailure> failures;
  controller_.on_actor_failure([&](const ActorFailure& failure) {
    const std::lock_guard lock(mutex);
    failures.push_back(failure);
  });
  ActorMesh mesh = actors_.actor("Ranked").options({.procs = 2, .name = "ranks"}).as_actor();
  const auto pids = mesh.pids();
  ASSERT_EQ(pids.size(), 2U);
  auto running = mesh.endpoint<NoteAndSleep>("note_and_sleep").call(path_, 1, all_ranks(kForEver));
  ASSERT_TRUE(wait_noted(1, 1));
  auto pid = mesh.endpoint<std::int64_t()>("pid");
  std::vector<Future<ValueMesh<std::int64_t>>> queued;
  for (int i = 0; i < 400; ++i) queued.push_back(pid.call());
  auto chosen = pid.choose();
  kill_and_wait(pids.at(1));

  const auto lost = await(std::move(running));
  ASSERT_EQ(outcome(lost), "worker_lost");
  EXPECT_TRUE(dynamic_cast<const WorkerLost&>(lost.error()).maybe_executed());
  EXPECT_EQ(outcomes(queued), (Outcomes{{"worker_lost", 400}}));
  const auto never = await(std::move(chosen));
  ASSERT_EQ(outcome(never), "worker_lost");
  EXPECT_FALSE(dynamic_cast<const WorkerLost&>(never.error()).maybe_executed());
  EXPECT_EQ(outcome(await(pid.call())), "worker_lost");
  EXPECT_EQ(outcome(await(pid.choose())), "worker_lost");
  EXPECT_THROW(pid.broadcast(), WorkerLost);
  ASSERT_TRUE(wait_until([&] {
    const std::lock_guard lock(mutex);
    return !failures.empty();
  }));
  EXPECT_TRUE(wait_until([&] { return gone(pids.at(0)); }));
  EXPECT_TRUE(mesh.pids().empty());
  EXPECT_TRUE(children().empty());
  mesh.shutdown();
  const std::lock_guard lock(mutex);
  ASSERT_EQ(failures.size(), 1U);
  EXPECT_EQ(failures[0].mesh, "ranks");
  EXPECT_EQ(failures[0].rank, 1);
  EXPECT_NE(failures[0].reason.find("signal 9"), std::string::npos) << failures[0].reason;
}

TEST_P(Mesh, ShutdownIsNoFailure) {
  std::atomic<int> failures{0};
  controller_.on_actor_failure([&](const ActorFailure&) { ++failures; });
  ActorMesh mesh = actors_.actor("Ranked").options({.procs = 2}).as_actor();
  auto running =
      mesh.endpoint<std::int64_t(std::vector<std::int64_t>)>("sleep").call(all_ranks(200));
  mesh.shutdown();  // within the grace period
  EXPECT_EQ(outcome(await(std::move(running))), "ok");
  EXPECT_TRUE(children().empty());
  EXPECT_EQ(outcome(await(start({}).endpoint<std::int64_t()>("pid").route())), "ok");
  EXPECT_EQ(failures, 0);
}

}  // namespace
}  // namespace forge::e2e
