// At every step of a worker's life, everything that can happen to it there. Everything is asked
// meanwhile; each shot has to cost what the contract allows, and no more.
//
// FORGE_FAILPOINT_REPEATS: shots for each point and action.
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/forge_bench/chaos_client.h"
#include "bench/forge_bench/chaos_held.h"
#include "bench/forge_bench/kill.h"
#include "tests/e2e/fixture.h"
#include "tests/failpoints/trigger.h"

namespace forge::failpoints {
namespace {

using e2e::outcome;
using e2e::wait_until;
using shm::FailAction;
using namespace std::chrono_literals;

constexpr int kReplicas = 2;
constexpr int kClients = 2;
constexpr int kInflight = 8;

int repeats() {
  const char* const given = std::getenv("FORGE_FAILPOINT_REPEATS");
  return given == nullptr ? 1 : std::atoi(given);
}

constexpr std::pair<FailAction, const char*> kDeaths[] = {{FailAction::kill, "kill"},
                                                          {FailAction::segfault, "segfault"},
                                                          {FailAction::abort, "abort"},
                                                          {FailAction::stop, "stop"}};

std::uint64_t deaths_of(const Service& service) {
  std::uint64_t deaths = 0;
  for (const auto& replica : service.replicas()) deaths += replica.incarnation - 1;
  return deaths;
}

/// With those that do not leave.
ControllerOptions impatient() {
  ControllerOptions options = e2e::quiet();
  options.shutdown_grace = 100ms;
  return options;
}

/// Everything, asked without a pause.
class Traffic {
 public:
  Traffic(const Service& service, const bench::ChaosTally& tally, const bench::ChaosRules& rules,
          std::uint64_t seed) {
    options_.replicas = kReplicas;
    options_.inflight = kInflight;
    options_.seed = seed;
    for (int i = 0; i < kClients; ++i)
      clients_.push_back(std::make_unique<bench::ChaosClient>(service, tally, options_, rules, i));
    for (auto& client : clients_)
      threads_.emplace_back([this, &client] { client->run(stopping_, settled_); });
  }
  /// Waits until nothing is open that was open when it was called.
  [[nodiscard]] bool wait_turnover() const {
    const std::uint64_t enough = settled_.load() + std::uint64_t{4} * kClients * kInflight;
    return wait_until([&] { return settled_.load() >= enough; });
  }
  void stop() {
    stopping_.store(true);
    threads_.clear();
  }
  /// When no worker is left.
  void add_to(bench::ChaosLedger& ledger) {
    for (auto& client : clients_) {
      client->recheck();
      ledger.merge(client->ledger());
    }
  }
  std::string first_error() const {
    for (const auto& client : clients_) {
      if (!client->first_error().empty()) return client->first_error();
    }
    return {};
  }

 private:
  bench::ChaosOptions options_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> settled_{0};
  std::vector<std::unique_ptr<bench::ChaosClient>> clients_;
  std::vector<std::jthread> threads_;
};

class Workers : public ::testing::TestWithParam<Point> {
 protected:
  Options options(int procs = 1) const {
    return {.procs = procs,
            .num_replicas = kReplicas,
            .health_poll_rate = 20ms,
            .restart = e2e::restart_at_once(),
            .env = {{shm::FailTrigger::kVariable, trigger_.path()}},
            .arena_bytes = std::size_t{16} << 20};
  }

  /// One shot, and waits until the service is whole again.
  void shoot(const Service& service, FailAction action) {
    const std::uint64_t before = deaths_of(service);
    const bool once = GetParam().when == When::setup;  // in each life
    trigger_->arm(GetParam().point, action, once ? 1 : 1 + random_() % 20);
    if (once) bench::kill_worker(service, service.replicas().at(0).pids.at(0));
    ASSERT_TRUE(wait_until([&] { return trigger_->fired(); })) << "no worker came there";
    ASSERT_TRUE(wait_until([&] {
      return deaths_of(service) >= before + (once ? 2 : 1) && e2e::all_healthy(service);
    })) << deaths_of(service) - before
        << " deaths";
  }

  std::mt19937_64 random_{e2e::test_seed()};
  Trigger trigger_;
  Controller controller_{impatient()};
  Plugin steps_ = controller_.load(e2e::plugin_path("steps"));
};

std::string name_of(const ::testing::TestParamInfo<Point>& info) { return info.param.name; }

// ---- everything that forge-bench chaos asks

class Asked : public Workers {
 protected:
  void serve();

 private:
  void call_all(const Service& service) const {
    const auto ask = service.endpoint<chaos::Answer(chaos::Question)>("ask_all");
    const std::size_t slot = tally_.slots() - chaos::kMostReplicas;
    (void)ask.fanout(chaos::Question{1, slot, chaos::kNoSession, chaos::bytes_of(1)}).get();
  }

  /// When nothing is being prepared any more.
  bench::Held held(const Service& service) const {
    bench::Held now;
    for (int same = 0; same < 5; ++same) {
      std::this_thread::sleep_for(5ms);
      call_all(service);  // whoever polled last may hold what was there then
      const bench::Held next = bench::held_now(service);
      if (!next.within(now) || !now.within(next)) same = 0;
      now = next;
    }
    return now;
  }

  const bench::ChaosTally tally_{kClients * bench::kChaosSlots + chaos::kMostReplicas};
  Plugin chaos_ = controller_.load(e2e::plugin_path("chaos"));
};

void Asked::serve() {
  Service service = chaos_.actor("Chaos").options(options()).as_service(
      tally_.path(), static_cast<std::uint64_t>(tally_.slots()));
  const bench::Held before = held(service);
  const bench::ChaosRules rules{.idempotent_succeed = true, .batch_size = chaos::kBatchSize};
  bench::ChaosLedger ledger(rules);
  Traffic traffic(service, tally_, rules, random_());
  for (const auto& [action, name] : kDeaths) {
    SCOPED_TRACE(name);
    for (int i = 0; i < repeats() && !HasFailure(); ++i) {
      // A call that dies twice would be poison; between two shots all that met the first have ended.
      ASSERT_TRUE(traffic.wait_turnover());
      shoot(service, action);
    }
  }
  traffic.stop();
  const bench::ChaosEnd end{.deaths = deaths_of(service)};
  bench::Held after;
  EXPECT_TRUE(wait_until([&] { return (after = held(service)).within(before); }, 10s))
      << describe(before) << " before, " << describe(after) << " after";
  EXPECT_EQ(service.counters().violations + service.counters().refused, 0);
  service.shutdown();
  traffic.add_to(ledger);
  ledger.close(end);
  for (const auto& violation : ledger.violations())
    ADD_FAILURE() << "request " << violation.number << ": " << violation.what;
  EXPECT_EQ(traffic.first_error(), "");
  EXPECT_EQ(tally_->out_of_order.load(), 0);
  EXPECT_EQ(tally_->garbled.load(), 0);
}

TEST_P(Asked, EachDeathCostsWhatRanAndNoMore) {
  const e2e::Footprint before = e2e::Footprint::now();
  serve();
  EXPECT_TRUE(returns_to(before));
}
INSTANTIATE_TEST_SUITE_P(Setup, Asked, ::testing::ValuesIn(points(When::setup)), name_of);
INSTANTIATE_TEST_SUITE_P(Serving, Asked, ::testing::ValuesIn(points(When::serving)), name_of);

// ---- coroutines, and ranks that work together

class Steps : public Workers {
 protected:
  /// `most`: calls that run at once in a replica.
  void check(const char* actor, const Options& options, std::size_t most) {
    const e2e::Footprint before = e2e::Footprint::now();
    serve(actor, options, most);
    EXPECT_TRUE(returns_to(before));
  }

 private:
  void serve(const char* actor, const Options& options, std::size_t most) {
    Service service = steps_.actor(actor).options(options).as_service();
    std::size_t lost = 0;
    std::atomic<bool> stopping{false};
    std::thread traffic([&] { lost = ask(service, stopping); });
    for (const auto& [action, name] : kDeaths) {
      SCOPED_TRACE(name);
      for (int i = 0; i < repeats() && !HasFailure(); ++i) {
        shoot(service, action);
        std::this_thread::sleep_for(5ms);
      }
    }
    stopping.store(true);
    traffic.join();
    EXPECT_LE(lost, deaths_of(service) * most);
  }

  /// How many calls were lost that are not idempotent.
  static std::size_t ask(const Service& service, const std::atomic<bool>& stopping) {
    const auto again = service.endpoint<std::int64_t(std::int64_t)>("ask");
    const auto once = service.endpoint<std::int64_t(std::int64_t)>("ask_once");
    std::size_t lost = 0;
    for (std::int64_t first = 0; !stopping.load(); first += kInflight) {
      std::vector<Future<std::int64_t>> open;
      for (std::int64_t i = 0; i < kInflight; ++i)
        open.push_back((i % 2 == 0 ? again : once).route(first + i));
      for (std::int64_t i = 0; i < kInflight; ++i) {
        const auto result = e2e::await(std::move(open[static_cast<std::size_t>(i)]));
        if (result) {
          EXPECT_EQ(*result, first + i + 1);
          continue;
        }
        EXPECT_EQ(outcome(result), "worker_lost") << result.error().what();
        EXPECT_EQ(i % 2, 1) << "idempotent: " << result.error().what();
        ++lost;
      }
    }
    return lost;
  }
};

class Coroutines : public Steps {};
TEST_P(Coroutines, EachDeathCostsWhatRanAndNoMore) { check("Napper", options(), kInflight); }
INSTANTIATE_TEST_SUITE_P(All, Coroutines, ::testing::ValuesIn(points(When::coroutine)), name_of);

class Groups : public Steps {};
TEST_P(Groups, EachDeathCostsWhatRanAndNoMore) { check("Choir", options(2), 1); }
INSTANTIATE_TEST_SUITE_P(All, Groups, ::testing::ValuesIn(points(When::group)), name_of);

// ---- the last step

class Leaving : public Workers {};
TEST_P(Leaving, NobodyStaysBehind) {
  const e2e::Footprint before = e2e::Footprint::now();
  for (const auto& [action, name] : kDeaths) {
    SCOPED_TRACE(name);
    for (int i = 0; i < repeats() && !HasFailure(); ++i) {
      {
        Service service = steps_.actor("Napper").options(options()).as_service();
        EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("ask").route(1).get(), 2);
        trigger_->arm(GetParam().point, action);
      }
      EXPECT_TRUE(trigger_->fired());
      EXPECT_TRUE(returns_to(before));
    }
  }
}
INSTANTIATE_TEST_SUITE_P(All, Leaving, ::testing::ValuesIn(points(When::shutdown)), name_of);

// ---- exceptions that are not the actor's

std::vector<Point> throwing(When when) {
  std::vector<Point> some = points(when);
  std::erase_if(some, [](const Point& point) { return !point.throws; });
  return some;
}

class ThrowsInSetup : public Workers {};
TEST_P(ThrowsInSetup, IsSaidAndTriedAgain) {
  const e2e::Footprint before = e2e::Footprint::now();
  trigger_->arm(GetParam().point, FailAction::raise);
  try {
    (void)steps_.actor("Napper").options(options()).as_service();
    ADD_FAILURE() << "it came up";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("a failpoint threw"), std::string::npos)
        << error.code() << ": " << error.what();
  }
  EXPECT_TRUE(returns_to(before));
  Service service = steps_.actor("Napper").options(options()).as_service();
  shoot(service, FailAction::raise);
  EXPECT_EQ(service.endpoint<std::int64_t(std::int64_t)>("ask").route(1).get(), 2);
}
INSTANTIATE_TEST_SUITE_P(All, ThrowsInSetup, ::testing::ValuesIn(throwing(When::setup)), name_of);

class ThrowsInACall : public Workers {};
TEST_P(ThrowsInACall, IsItsAnswerAndHurtsNobodyElse) {
  for (const char* actor : {"Napper", "Choir"}) {
    SCOPED_TRACE(actor);
    Service service = steps_.actor(actor).options(options()).as_service();
    const auto ask = service.endpoint<std::int64_t(std::int64_t)>("ask");
    const std::int64_t right = actor == std::string("Napper") ? 2 : 1;
    trigger_->arm(GetParam().point, FailAction::raise);
    const auto result = e2e::await(ask.route(1));
    ASSERT_FALSE(result) << "answered " << *result;
    EXPECT_EQ(outcome(result), "actor_error");
    EXPECT_NE(std::string(result.error().what()).find("a failpoint threw"), std::string::npos)
        << result.error().what();
    EXPECT_EQ(ask.route(1).get(), right);
    EXPECT_EQ(deaths_of(service), 0);
  }
}
INSTANTIATE_TEST_SUITE_P(All, ThrowsInACall, ::testing::ValuesIn(throwing(When::serving)), name_of);

}  // namespace
}  // namespace forge::failpoints
