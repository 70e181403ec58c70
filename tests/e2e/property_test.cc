// Random use of services while their workers are killed at random. The model: what each future may
// complete with, and how often its call may have been executed. FORGE_TEST_SEED repeats a run, as
// far as processes can be repeated.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/e2e/fixture.h"

namespace forge::e2e {
namespace {

using Random = std::minstd_rand;

/// Seven digits and a newline: eight bytes divide a page, and a write inside of one page is whole
/// or not there when its writer is killed.
constexpr std::int64_t kFirst = 1'000'000;

/// What the test knows of one execution-counted call.
struct Expectation {
  bool idempotent = false;
  std::size_t shares = 1;
  std::size_t ok = 0;       ///< shares that answered with a value
  std::size_t lost = 0;     ///< with WorkerLost
  std::size_t stopped = 0;  ///< with Stopped, or Unavailable
  bool forgotten = false;   ///< its future was dropped
};

/// All calls of one service's life. Any thread.
class Book {
 public:
  std::int64_t open(bool idempotent) {
    const std::lock_guard lock(mutex_);
    calls_[++last_].idempotent = idempotent;
    return last_;
  }
  void forget(std::int64_t value) {
    const std::lock_guard lock(mutex_);
    calls_[value].forgotten = true;
  }
  void shares(std::int64_t value, std::size_t count) {
    const std::lock_guard lock(mutex_);
    calls_[value].shares = count;
  }
  void settle(std::int64_t value, const std::string& outcome) {
    const std::lock_guard lock(mutex_);
    Expectation& call = calls_[value];
    if (outcome == "ok") {
      ++call.ok;
    } else if (outcome == "worker_lost") {
      ++call.lost;
    } else {
      EXPECT_TRUE(outcome == "stopped" || outcome == "no_healthy_replicas") << outcome;
      ++call.stopped;
    }
  }

  bool all_settled() const {
    const std::lock_guard lock(mutex_);
    return std::ranges::all_of(calls_, [](const auto& entry) {
      const Expectation& call = entry.second;
      return call.forgotten || call.ok + call.lost + call.stopped >= call.shares;
    });
  }

  /// Checks what was settled against the executions that were counted outside of forge. Gives the
  /// number of calls that were lost though nothing forbids to run them twice only.
  std::size_t check(const std::map<std::int64_t, int>& executions, std::size_t procs) const {
    std::size_t lost = 0;
    for (const auto& [value, call] : calls_) {
      const auto found = executions.find(value);
      const std::size_t runs =
          found == executions.end() ? 0 : static_cast<std::size_t>(found->second);
      const std::size_t most = call.idempotent ? 3 : 1;
      if (!call.forgotten) {
        EXPECT_EQ(call.ok + call.lost + call.stopped, call.shares)
            << "call " << value << " completed another number of times";
      }
      EXPECT_LE(runs, call.shares * procs * most) << "call " << value << " ran too often";
      EXPECT_GE(runs, call.ok * procs)
          << (call.idempotent ? "idempotent " : "") << "call " << value << " of " << call.shares
          << " shares was answered, but did not run";
      if (!call.idempotent) lost += call.lost;
    }
    for (const auto& [value, runs] : executions)
      EXPECT_TRUE(calls_.contains(value)) << value << " was executed, but nobody called it";
    return lost;
  }
  std::size_t size() const { return calls_.size(); }

 private:
  mutable std::mutex mutex_;
  std::map<std::int64_t, Expectation> calls_;
  std::int64_t last_ = kFirst;
};

/// One thread's random use of a service.
class User {
 public:
  User(const Service& service, Book& book, std::string tally, std::uint32_t seed)
      : record_(service.endpoint<void(const std::string&, std::int64_t)>("record")),
        again_(service.endpoint<void(const std::string&, std::int64_t)>("record_idempotent")),
        echo_(service.endpoint<std::int64_t(std::int64_t)>("echo_idempotent")),
        sleep_(service.endpoint<void(std::int64_t)>("sleep_ms")),
        bytes_(service.endpoint<Bytes(std::uint64_t)>("make_bytes")),
        book_(book),
        tally_(std::move(tally)),
        random_(seed) {}

  void step() {
    switch (random_() % 12) {
      case 0:
      case 1:
      case 2:
      case 3:
        return route();
      case 4:
      case 5:
        return fanout();
      case 6:
        return drop();
      case 7:
        return then();
      case 8: {
        const std::int64_t value = random_();
        const auto result = await(echo_.route(value));
        EXPECT_EQ(result.value_or(value), value);
        return;
      }
      case 9: {  // a deadline, which may pass
        const auto result = await(sleep_.with({.timeout = 1ms}).route(random_() % 3));
        EXPECT_TRUE(result || result.error().code() != "backpressure");
        return;
      }
      case 10: {
        const std::size_t size = random_() % 300'000;
        const auto result = await(bytes_.route(size));
        EXPECT_EQ(result ? result->size() : size, size);
        return;
      }
      default:
        return collect(random_() % 8);
    }
  }

  /// Waits for all but `keep` of its futures, in random order.
  void collect(std::size_t keep) {
    std::shuffle(routed_.begin(), routed_.end(), random_);
    for (; routed_.size() > keep; routed_.pop_back())
      book_.settle(routed_.back().first, outcome(await(std::move(routed_.back().second))));
    for (; fanned_.size() > keep; fanned_.pop_back()) {
      const std::int64_t value = fanned_.back().first;
      const auto results = await(std::move(fanned_.back().second));
      if (!results) {
        book_.settle(value, outcome(results));
        continue;
      }
      book_.shares(value, results->size());
      for (const auto& share : *results) book_.settle(value, outcome(share));
    }
  }

 private:
  void route() {
    const bool idempotent = random_() % 2 == 0;
    const int burst = random_() % 4 == 0 ? 300 : 3;  // more than a ring holds, now and then
    for (int i = 0; i < burst; ++i) {
      const std::int64_t value = book_.open(idempotent);
      routed_.emplace_back(value, (idempotent ? again_ : record_).route(tally_, value));
    }
    if (routed_.size() > 600) collect(0);
  }
  void fanout() {
    const bool idempotent = random_() % 2 == 0;
    const std::int64_t value = book_.open(idempotent);
    fanned_.emplace_back(value, (idempotent ? again_ : record_).fanout(tally_, value));
  }
  void drop() {
    const std::int64_t value = book_.open(false);
    book_.forget(value);
    const auto dropped = record_.route(tally_, value);
    (void)dropped;
    if (!routed_.empty()) {
      book_.forget(routed_.back().first);
      routed_.pop_back();
    }
  }
  void then() {
    const std::int64_t value = book_.open(true);
    const auto chained =
        again_.route(tally_, value).then([&book = book_, value](Result<void> result) {
          book.settle(value, outcome(result));
        });
    (void)chained;
  }

  Endpoint<void(const std::string&, std::int64_t)> record_;
  Endpoint<void(const std::string&, std::int64_t)> again_;
  Endpoint<std::int64_t(std::int64_t)> echo_;
  Endpoint<void(std::int64_t)> sleep_;
  Endpoint<Bytes(std::uint64_t)> bytes_;
  Book& book_;
  const std::string tally_;
  Random random_;
  std::vector<std::pair<std::int64_t, Future<void>>> routed_;
  std::vector<std::pair<std::int64_t, Future<std::vector<Result<void>>>>> fanned_;
};

/// Kills workers until told to stop, often while they are still starting. Gives the number of kills.
std::size_t kill_at_random(const Service& service, std::uint32_t seed,
                           const std::atomic<bool>& stop) {
  Random random(seed);
  std::size_t kills = 0;
  int youngest = 0;
  while (!stop) {
    const auto pids = pids_of(service);
    if (pids.empty()) continue;
    // A worker that has just been started: its setup may be anywhere.
    const int newest = *std::ranges::max_element(pids);
    const bool early = newest > youngest && random() % 2 == 0;
    youngest = newest;
    const int victim = early ? newest : pids[random() % pids.size()];
    std::this_thread::sleep_for(std::chrono::microseconds(random() % (early ? 6'000 : 25'000)));
    kills += ::kill(victim, SIGKILL) == 0;
  }
  return kills;
}

TEST(Property, EveryFutureCompletesOnceAndNoCallRunsTooOften) {
  const std::uint64_t seed = test_seed();
  Random random(static_cast<std::uint32_t>(seed));
  const auto before = Footprint::now();
  {
    Controller controller([] {
      auto options = quiet();
      options.shutdown_grace = 20ms;
      return options;
    }());
    Plugin plugin = controller.load(plugin_path("faulty"));
    for (int round = 0; round < 9; ++round) {
      TemporaryFolder folder;
      const Tally tally(folder);
      const int procs = round % 3 == 2 ? 2 : 1;
      Options options{.procs = procs,
                      .num_replicas = static_cast<int>(random() % 3) + 1,
                      .restart = restart_at_once(),
                      .arena_bytes = 8 << 20,
                      .wait = round % 4 == 3 ? Wait::block : Wait::adaptive};
      Book book;
      std::size_t kills = 0;
      {
        std::optional<Service> service(plugin.actor("Faulty").options(options).as_service());
        std::vector<std::unique_ptr<User>> users;
        for (int i = 0; i < 3; ++i)
          users.push_back(std::make_unique<User>(*service, book, tally.path(),
                                                 static_cast<std::uint32_t>(random())));
        std::atomic<bool> stop{false};
        std::vector<std::thread> threads;
        for (auto& user : users) {
          threads.emplace_back([&user, &stop] {
            while (!stop) user->step();
          });
        }
        threads.emplace_back([&, killer_seed = static_cast<std::uint32_t>(random())] {
          kills = kill_at_random(*service, killer_seed, stop);
        });
        std::this_thread::sleep_for(500ms);
        // The end may come while calls are made, after the last one, or without a shutdown.
        const auto ending = random() % 3;
        if (ending == 0) service->shutdown();
        stop = true;
        for (auto& thread : threads) thread.join();
        if (ending == 1) {
          for (auto& user : users) user->collect(0);
        }
        service.reset();
        for (auto& user : users) user->collect(0);
      }
      // Continuations may still be on their way.
      EXPECT_TRUE(wait_until([&] { return book.all_settled(); }));
      const std::size_t lost = book.check(tally.counts(), static_cast<std::size_t>(procs));
      // A worker runs one call at a time; in lockstep the survivors go on until they are fenced.
      EXPECT_TRUE(procs > 1 || lost <= kills) << lost << " lost by " << kills << " kills";
      std::printf("round %d: %zu calls, %zu kills, %zu lost\n", round, book.size(), kills, lost);
      if (HasFailure()) return;
    }
  }
  EXPECT_TRUE(returns_to(before));
}

/// Many in flight from several threads, workers killed all the time, and everything is accounted for.
TEST(Property, KillsUnderLoadLoseAtMostWhatWasRunning) {
  Random random(static_cast<std::uint32_t>(test_seed()));
  Controller controller(quiet());
  Plugin plugin = controller.load(plugin_path("faulty"));
  for (const bool idempotent : {false, true}) {
    TemporaryFolder folder;
    const Tally tally(folder);
    Service service = plugin.actor("Faulty")
                          .options({.num_replicas = 3, .restart = restart_at_once()})
                          .as_service();
    auto record = service.endpoint<void(const std::string&, std::int64_t)>(
        idempotent ? "record_idempotent" : "record");
    constexpr int kThreads = 4;
    constexpr std::int64_t kCalls = 4'000;
    std::vector<std::vector<std::string>> results(kThreads);
    std::atomic<int> working{kThreads};
    std::atomic<std::size_t> answered{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::vector<Future<void>> window;  // a ring of futures: as many are in flight
        auto& mine = results[static_cast<std::size_t>(t)];
        for (std::int64_t i = 0; i < kCalls; ++i) {
          const std::size_t turn = static_cast<std::size_t>(i) % 300;
          if (window.size() > turn) {
            mine.push_back(outcome(await(std::move(window[turn]))));
            ++answered;
            window[turn] = record.route(tally.path(), kFirst + t * kCalls + i);
          } else {
            window.push_back(record.route(tally.path(), kFirst + t * kCalls + i));
          }
        }
        const std::size_t oldest = kCalls % 300;
        for (std::size_t i = 0; i < window.size(); ++i)
          mine.push_back(outcome(await(std::move(window[(oldest + i) % 300]))));
        --working;
      });
    }
    std::size_t kills = 0;
    while (working != 0) {
      const auto pids = pids_of(service);
      const std::size_t before = answered;
      if (!pids.empty()) kills += ::kill(pids[random() % pids.size()], SIGKILL) == 0;
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % 8));
      // On a machine so busy that no worker lives long enough to answer, nothing would ever end.
      for (int i = 0; i < 500 && working != 0 && answered == before; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    for (auto& thread : threads) thread.join();
    service.shutdown();

    const auto counts = tally.counts();
    std::size_t lost = 0;
    for (std::int64_t t = 0; t < kThreads; ++t) {
      const auto& mine = results[static_cast<std::size_t>(t)];
      ASSERT_EQ(mine.size(), static_cast<std::size_t>(kCalls));
      for (std::int64_t i = 0; i < kCalls; ++i) {
        const auto found = counts.find(kFirst + t * kCalls + i);
        const int runs = found == counts.end() ? 0 : found->second;
        const std::string& result = mine[static_cast<std::size_t>(i)];
        EXPECT_LE(runs, idempotent ? 3 : 1);
        if (result == "ok") {
          EXPECT_GE(runs, 1);
        } else {
          EXPECT_EQ(result, "worker_lost");
          ++lost;
        }
      }
    }
    EXPECT_LE(lost, kills);
    std::printf("%s: %lld calls, %zu kills, %zu lost\n", idempotent ? "idempotent" : "plain",
                static_cast<long long>(kThreads * kCalls), kills, lost);
  }
}

}  // namespace
}  // namespace forge::e2e
