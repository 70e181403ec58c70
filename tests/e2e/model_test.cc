// Random use of everything at once: endpoints of every kind, sessions, cancels, deadlines, batches,
// dropped futures, deaths, shutdown. The model knows what was done to each call; executions are noted
// outside of forge. FORGE_TEST_SEED repeats a run, as far as threads and processes can be repeated.
#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model.h"

namespace forge::e2e {
namespace {

using Work = std::int64_t(std::int64_t, std::int64_t);

/// Sources that several threads call with while another cancels them.
class Sources {
 public:
  std::shared_ptr<Source> take(std::size_t place) {
    const std::lock_guard lock(mutex_);
    return sources_[place % sources_.size()];
  }
  void cancel(std::size_t place) {
    std::shared_ptr<Source> victim = std::make_shared<Source>();
    {
      const std::lock_guard lock(mutex_);
      std::swap(victim, sources_[place % sources_.size()]);
    }
    victim->cancel();
  }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<Source>> sources_ = [] {
    std::vector<std::shared_ptr<Source>> made(4);
    for (auto& source : made) source = std::make_shared<Source>();
    return made;
  }();
};

/// One thread's use of the service.
class Client {
 public:
  Client(const Service& service, const Plan& plan, Sources& sources, std::int64_t first_id,
         std::uint32_t seed)
      : service_(service), plan_(plan), sources_(sources), last_id_(first_id), random_(seed) {
    for (const Kind& kind : plan.kinds) endpoints_.push_back(service.endpoint<Work>(kind.name));
  }

  void step() {
    switch (random_() % 16) {
      case 0:
        return fanout();
      case 1:
        return cancel_own();
      case 2:
        return chain();
      case 3:
        return change_session();
      case 4:
        return in_scope();
      case 5:
        for (std::uint64_t i = random_() % 60; i > 0; --i) route();
        return;
      case 6:
      case 7:
      case 8:
        return collect(random_() % 40);
      default:
        route();
        if (open_.size() > 300) collect(50);
    }
  }

  void collect(std::size_t keep) {
    std::shuffle(open_.begin(), open_.end(), random_);
    for (; open_.size() > keep; open_.pop_back()) {
      Call& call = *open_.back().first;
      if (random_() % 16 == 0) {
        call.dropped = true;
      } else {
        add(call, outcome_of(await(std::move(open_.back().second))));
      }
    }
    for (; fanned_.size() > keep; fanned_.pop_back()) {
      Call& call = *fanned_.back().first;
      const auto results = await(std::move(fanned_.back().second));
      if (!results) {
        add(call, {std::string(results.error().code()), results.error().what()});
        continue;
      }
      call.shares = results->size();
      for (const auto& share : *results) add(call, outcome_of(share));
    }
  }

  void end_session() {
    if (!session_.empty()) service_.terminate_session(session_);
    session_.clear();
  }
  bool chains_ended() const { return chained_ == 0; }
  const std::deque<Call>& calls() const { return calls_; }

 private:
  void add(Call& call, Outcome outcome) {
    const std::lock_guard lock(mutex_);
    call.outcomes.push_back(std::move(outcome));
  }

  std::int64_t deed() {
    const auto dice = random_() % 100;
    if (dice < 5) return static_cast<std::int64_t>(Deed::throws);
    if (dice < 10) return static_cast<std::int64_t>(Deed::element_fails);
    if (dice < 11 && plan_.deaths && random_() % 2 == 0)
      return static_cast<std::int64_t>(Deed::dies);
    return dice < 25 ? static_cast<std::int64_t>(random_() % 2000) : 0;
  }

  /// A call with random options, and the endpoint that has them.
  std::pair<Call*, Endpoint<Work>> prepare() {
    const std::size_t which = random_() % endpoints_.size();
    Call& call = calls_.emplace_back();
    call.id = ++last_id_;
    call.kind = &plan_.kinds[which];
    call.deed = deed();
    CallOptions options;
    if (random_() % 3 == 0) {
      call.source = sources_.take(random_());
      options.cancel = call.source->source.token();
    }
    if (random_() % 4 == 0) {
      const std::chrono::nanoseconds timeouts[] = {1ns, 100us, 1ms, 3ms, 60s};
      options.timeout = timeouts[random_() % std::size(timeouts)];
      call.timed = true;
    }
    if (scope_ != nullptr) {
      call.session = session_number(*scope_);
      call.strict = scope_strict_;
    } else if (!session_.empty() && random_() % 2 == 0) {
      options.sess_id = session_;
      call.session = session_number(session_);
      call.strict = strict_;
    }
    const std::string key = std::to_string(random_() % 8);
    options.key = key;
    return {&call, endpoints_[which].with(options)};
  }

  void route() {
    const auto [call, endpoint] = prepare();
    open_.emplace_back(call, endpoint.route(call->id, call->deed));
  }
  void fanout() {
    const auto [call, endpoint] = prepare();
    call->fanned = true;
    fanned_.emplace_back(call, endpoint.fanout(call->id, call->deed));
  }
  void chain() {
    auto [call, endpoint] = prepare();
    ++chained_;
    const auto chained =
        endpoint.route(call->id, call->deed).then([this, call = call](Result<std::int64_t> result) {
          add(*call, outcome_of(result));
          --chained_;
        });
    (void)chained;
  }
  /// A source only this thread knows: when cancel() has returned, everything made with it is over.
  void cancel_own() {
    auto source = std::make_shared<Source>();
    std::vector<std::pair<Call*, Future<std::int64_t>>> mine;
    for (std::uint64_t i = random_() % 30; i > 0; --i) {
      const auto [call, endpoint] = prepare();
      call->source = source;
      // prepare() may have given it another one; with() replaces all options.
      CallOptions options{.cancel = source->source.token()};
      if (call->timed) options.timeout = 3ms;
      if (scope_ == nullptr && call->session != 0) options.sess_id = session_;
      const auto which = static_cast<std::size_t>(call->kind - plan_.kinds.data());
      mine.emplace_back(call, endpoints_[which].with(options).route(call->id, call->deed));
    }
    if (random_() % 2 == 0)
      std::this_thread::sleep_for(std::chrono::microseconds(random_() % 3000));
    source->cancel();
    for (auto& [call, future] : mine) {
      EXPECT_TRUE(future.wait_for(0s)) << "call " << call->id << " was cancelled and is not over";
      open_.emplace_back(call, std::move(future));
    }
  }
  void change_session() {
    end_session();
    strict_ = random_() % 2 == 0;
    try {
      if (strict_) {
        session_ = service_.start_session({.strict = true});
      } else {  // an id that nobody started
        session_ = "user-" + std::to_string(last_id_) + "-" + std::to_string(++sessions_);
      }
    } catch (const Stopped&) {
      EXPECT_TRUE(plan_.shut_down_early());
    }
  }
  void in_scope() {
    try {
      scope_strict_ = random_() % 2 == 0;
      const Session session = service_.session({.strict = scope_strict_});
      scope_ = &session.id();
      for (std::uint64_t i = random_() % 20; i > 0; --i) random_() % 8 == 0 ? chain() : route();
      if (random_() % 2 == 0) collect(0);
    } catch (const Stopped&) {
      EXPECT_TRUE(plan_.shut_down_early());
    }
    scope_ = nullptr;
  }

  const Service& service_;
  const Plan& plan_;
  Sources& sources_;
  std::int64_t last_id_;
  Random random_;
  std::vector<Endpoint<Work>> endpoints_;
  std::deque<Call> calls_;
  std::vector<std::pair<Call*, Future<std::int64_t>>> open_;
  std::vector<std::pair<Call*, Future<std::vector<Result<std::int64_t>>>>> fanned_;
  std::string session_;
  bool strict_ = false;
  int sessions_ = 0;
  const std::string* scope_ = nullptr;
  bool scope_strict_ = false;
  std::mutex mutex_;  // of outcomes: continuations add them
  std::atomic<int> chained_{0};
};

std::size_t kill_now_and_then(const Service& service, std::uint32_t seed,
                              const std::atomic<bool>& stop) {
  Random random(seed);
  std::size_t kills = 0;
  const auto rest = random() % 40'000 + 2'000;
  while (!stop) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % rest));
    const auto pids = pids_of(service);
    if (!pids.empty()) kills += ::kill(pids[random() % pids.size()], SIGKILL) == 0;
  }
  return kills;
}

bool is_quiet(const Service& service) {
  const auto summary = service.get_metrics_summary();
  return std::ranges::all_of(summary.replicas, [](const auto& entry) {
    return entry.second.active_requests == 0 && entry.second.queue_depth == 0;
  });
}

void run_round(Plugin& plugin, std::uint32_t seed) {
  Random random(seed);
  random.discard(10);  // the first ones are alike for seeds that are
  const Plan plan(random);
  TemporaryFolder folder;
  const std::string path = folder.file("log");
  Sources sources;
  std::vector<std::unique_ptr<Client>> clients;
  std::size_t kills = 0;
  std::optional<MetricsSummary> summary;

  std::optional<Service> service(
      plugin.actor(plan.mixed ? "Mixed" : "Methods").options(plan.options).as_service(path));
  for (std::int64_t i = 0; i < 3; ++i)
    clients.push_back(std::make_unique<Client>(*service, plan, sources, (i + 1) * 1'000'000,
                                               static_cast<std::uint32_t>(random())));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (auto& client : clients) {
    threads.emplace_back([&client, &stop] {
      while (!stop) client->step();
      client->end_session();
    });
  }
  threads.emplace_back([&, own = Random(static_cast<std::uint32_t>(random()))]() mutable {
    while (!stop) {
      std::this_thread::sleep_for(std::chrono::microseconds(own() % 3000));
      sources.cancel(own());
    }
  });
  if (plan.deaths) {
    threads.emplace_back([&, own = static_cast<std::uint32_t>(random())] {
      kills = kill_now_and_then(*service, own, stop);
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100 + random() % 300));
  if (plan.shut_down_early()) service->shutdown();
  stop = true;
  for (auto& thread : threads) thread.join();
  if (plan.ending == 1) service.reset();
  for (auto& client : clients) client->collect(0);
  EXPECT_TRUE(wait_until([&] {
    return std::ranges::all_of(clients, [](auto& client) { return client->chains_ended(); });
  })) << "a continuation never ran";
  if (plan.ending > 1) {
    EXPECT_TRUE(wait_until([&] { return is_quiet(*service); })) << "calls are left";
    EXPECT_TRUE(wait_until([&] { return service->get_metrics().total_sessions == 0; }))
        << service->get_metrics().total_sessions << " sessions are left";
    for (const auto& [idx, replica] : service->get_metrics_summary().replicas)
      EXPECT_EQ(replica.assigned_sessions, 0U) << "sessions are left on replica " << idx;
    EXPECT_TRUE(service->session_map().empty());
    summary = service->get_metrics_summary();
    EXPECT_EQ(service->counters().refused, 0U);
    EXPECT_EQ(service->counters().violations, 0U);
  }
  service.reset();

  const Log log(path);
  Verdict verdict(plan, log, kills);
  for (const auto& client : clients) verdict.add(client->calls());
  verdict.check();
  if (summary) verdict.check_metrics(*summary);
  std::printf("seed %u: %d x %d %s, ending %d: %zu calls, %zu records, %zu kills, %zu lost\n", seed,
              plan.options.num_replicas, plan.options.procs, plan.mixed ? "mixed" : "plain",
              static_cast<int>(plan.ending), verdict.size(), log.records().size(), kills,
              verdict.lost());
  for (const auto& [code, count] : verdict.outcomes())
    std::printf("    %s %zu", code.c_str(), count);
  std::printf("\n");
}

TEST(Model, EveryInterleavingCompletesEveryFutureOnce) {
  Random random(static_cast<std::uint32_t>(test_seed()));
  const auto before = Footprint::now();
  {
    auto options = quiet();
    options.shutdown_grace = 2ms;
    Controller controller(options);
    Plugin plugin = controller.load(plugin_path("model"));
    for (int round = 0; round < 10 && !HasFailure(); ++round)
      run_round(plugin, static_cast<std::uint32_t>(random()));
  }
  EXPECT_TRUE(returns_to(before));
}

}  // namespace
}  // namespace forge::e2e
