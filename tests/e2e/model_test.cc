// Random use of everything at once: endpoints of every kind, sessions, cancels, deadlines, batches,
// dropped futures, deaths, shutdown. The model knows what was done to each call; executions are noted
// outside of forge. FORGE_TEST_SEED repeats a run, as far as threads and processes can be repeated.
#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model_log.h"
#include "support.h"

namespace forge::e2e {
namespace {

using Random = std::minstd_rand;
using Work = std::int64_t(std::int64_t, std::int64_t);

/// An endpoint as the model knows it.
struct Kind {
  std::string name;
  bool again = false;    ///< idempotent
  bool batched = false;  ///< one execution for several calls
  std::size_t most = 1;  ///< calls of one batch
};

struct Source {
  void cancel() {
    begun = true;
    source.cancel();
  }
  CancelSource source;
  std::atomic<bool> begun{false};
};

struct Outcome {
  std::string code;  ///< "ok" if there was a value
  std::string text;
  std::int64_t value = 0;
  bool maybe_executed = false;
};

Outcome outcome_of(const Result<std::int64_t>& result) {
  if (result.has_value()) return {"ok", {}, *result, true};
  const auto* const lost = dynamic_cast<const WorkerLost*>(&result.error());
  return {std::string(result.error().code()), result.error().what(), 0,
          lost != nullptr && lost->maybe_executed()};
}

/// What was done to one call, and what became of it.
struct Call {
  std::int64_t id = 0;
  const Kind* kind = nullptr;
  std::int64_t deed = 0;
  std::uint64_t session = 0;
  bool strict = false;
  bool timed = false;
  bool fanned = false;
  bool dropped = false;
  std::shared_ptr<Source> source;
  std::size_t shares = 1;
  std::vector<Outcome> outcomes;
};

/// What may happen in a round.
struct Plan {
  explicit Plan(Random& random) {
    mixed = random() % 3 != 0;
    deaths = random() % 3 != 0;
    ending = random() % 4;
    options.procs = random() % 5 == 0 ? 2 : 1;
    options.num_replicas = static_cast<int>(random() % (options.procs == 1 ? 4 : 2)) + 1;
    options.replica_max_concurrent_requests = static_cast<int>(random() % 10) + 1;
    if (random() % 4 == 0) options.max_queued_requests = static_cast<int>(random() % 40) + 1;
    options.restart = restart_at_once();
    options.arena_bytes = 8 << 20;
    options.wait = random() % 4 == 3 ? Wait::block : Wait::adaptive;
    add("plain", false, false, 1);
    add("plain_again", true, false, 1);
    const auto size = [&] { return random() % 9 + 1; };
    add("together", false, false, size());
    add("together_again", true, false, size());
    add("batch", false, true, size());
    add("batch_again", true, true, size());
    add("single", false, true, 1);
    if (mixed) {
      add("task", false, false, 1);
      add("task_again", true, false, 1);
      add("task_together", false, false, size());
      add("task_batch", false, true, size());
      add("task_batch_again", true, true, size());
    }
    const char* const routers[] = {"round_robin", "least_loaded", "power_of_two_choices", "hash"};
    for (const Kind& kind : kinds) {
      options.endpoints[kind.name] = {.router = routers[random() % std::size(routers)],
                                      .batch_size = static_cast<int>(kind.most),
                                      .batch_timeout = std::chrono::microseconds(random() % 4000),
                                      .idempotent = kind.again};
    }
  }
  void add(const char* name, bool again, bool batched, std::size_t most) {
    kinds.push_back({name, again, batched, most});
  }
  bool small_queues() const { return options.max_queued_requests < 100; }
  bool shut_down_early() const { return ending == 0; }

  bool mixed = false;
  bool deaths = false;
  std::uint64_t ending = 0;  ///< 0: shut down meanwhile; 1: destroyed with calls open; else: quiet
  Options options;
  std::vector<Kind> kinds;
};

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
      CallOptions options{.timeout = call->timed ? 3ms : 0ns, .cancel = source->source.token()};
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

/// Executions, as the actors noted them.
class Log {
 public:
  explicit Log(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    for (ModelRecord record; file.read(reinterpret_cast<char*>(&record), sizeof(record));)
      records_.push_back(record);
    for (const ModelRecord& record : records_) {
      if (record.ends) continue;
      ++runs_[record.call];
      if (record.throws) spoilt_.insert(record.call);
    }
  }
  const std::vector<ModelRecord>& records() const { return records_; }
  std::size_t runs(std::int64_t call) const {
    const auto found = runs_.find(call);
    return found == runs_.end() ? 0 : found->second;
  }
  bool spoilt(std::int64_t call) const { return spoilt_.contains(call); }

 private:
  std::vector<ModelRecord> records_;
  std::map<std::int64_t, std::size_t> runs_;
  std::set<std::int64_t> spoilt_;  // were executed together with one that throws
};

/// All that was done in a round, held against what happened.
class Verdict {
 public:
  Verdict(const Plan& plan, const Log& log, std::size_t kills)
      : plan_(plan), log_(log), deaths_(kills) {}

  void add(const std::deque<Call>& calls) {
    for (const Call& call : calls) {
      calls_[call.id] = &call;
      if (call.deed == static_cast<std::int64_t>(Deed::dies)) deaths_ += log_.runs(call.id);
    }
  }

  void check() {
    for (const auto& [id, call] : calls_) {
      SCOPED_TRACE("call " + std::to_string(id) + " of " + call->kind->name + ", deed " +
                   std::to_string(call->deed) + (call->fanned ? ", fanned out" : "") +
                   (call->session != 0 ? ", in a session" : ""));
      check_call(*call);
      for (const Outcome& outcome : call->outcomes) check_outcome(*call, outcome);
    }
    check_executions();
    check_sessions();
    // Coroutines and batches die together.
    std::size_t together = 1;
    for (const Kind& kind : plan_.kinds)
      together = std::max(together, kind.batched ? kind.most : 1);
    if (plan_.mixed)
      together *= static_cast<std::size_t>(plan_.options.replica_max_concurrent_requests);
    EXPECT_TRUE(plan_.options.procs > 1 || lost_ <= deaths_ * together)
        << lost_ << " lost by " << deaths_ << " deaths";
  }

  /// Nothing is open any more, and every share ended where it was counted.
  void check_metrics(const MetricsSummary& summary) const {
    std::uint64_t successful = 0;
    std::uint64_t failed = 0;
    for (const auto& [idx, replica] : summary.replicas) {
      EXPECT_EQ(replica.total_requests, replica.successful_requests + replica.failed_requests);
      successful += replica.successful_requests;
      failed += replica.failed_requests;
    }
    std::uint64_t values = 0;
    std::uint64_t errors = 0;   // of calls that had a replica
    std::uint64_t unknown = 0;  // dropped, or never had a replica
    for (const auto& [id, call] : calls_) {
      if (call->dropped) ++unknown;
      for (const Outcome& outcome : call->outcomes) {
        const bool had_one = outcome.code == "actor_error" || outcome.code == "worker_lost";
        ++(outcome.code == "ok" ? values : had_one ? errors : unknown);
      }
    }
    EXPECT_GE(successful, values);
    EXPECT_GE(failed, errors);
    EXPECT_LE(successful + failed, values + errors + unknown);
    for (const Kind& kind : plan_.kinds)
      EXPECT_LE(summary.endpoints.at(kind.name).batch_sizes.size(), kind.most + 1);
  }

  std::size_t lost() const { return lost_; }
  Outcomes outcomes() const {
    Outcomes all;
    for (const auto& [id, call] : calls_) {
      for (const Outcome& outcome : call->outcomes) ++all[outcome.code];
    }
    return all;
  }
  std::size_t size() const { return calls_.size(); }

 private:
  void check_call(const Call& call) {
    if (call.dropped) {
      EXPECT_EQ(call.outcomes.size(), 0U);
    } else {
      EXPECT_EQ(call.outcomes.size(), call.shares) << "completed another number of times";
    }
    // A dropped fanout went to as many as there were.
    EXPECT_LE(log_.runs(call.id), call.shares * (call.kind->again ? 3 : 1)) << "ran too often";
  }

  void check_outcome(const Call& call, const Outcome& outcome) {
    const std::size_t runs = log_.runs(call.id);
    const std::string& code = outcome.code;
    const auto says = [&](const char* what) {
      return outcome.text.find(what) != std::string::npos;
    };
    if (code == "ok") {
      EXPECT_EQ(outcome.value, answer_of(call.id)) << "somebody else's answer";
      EXPECT_GE(runs, 1U);
      EXPECT_GE(call.deed, 0);
    } else if (code == "cancelled") {
      EXPECT_TRUE(call.source && call.source->begun);
    } else if (code == "deadline_exceeded") {
      EXPECT_TRUE(call.timed);
    } else if (code == "worker_lost") {
      ++lost_;
      EXPECT_TRUE(outcome.maybe_executed) << "what has not started is replayed";
      EXPECT_GE(deaths_, call.kind->again ? 3U : 1U) << outcome.text;
    } else if (code == "actor_error") {
      EXPECT_TRUE(call.deed < 0 ||
                  (call.kind->batched && !call.kind->again && log_.spoilt(call.id)))
          << outcome.text;
      EXPECT_GE(runs, 1U);
    } else if (code == "session_lost") {
      EXPECT_TRUE(call.strict && deaths_ > 0);
    } else if (code == "backpressure") {
      EXPECT_TRUE(plan_.small_queues()) << outcome.text;
      EXPECT_TRUE(call.fanned || runs == 0);
    } else if (code == "stopped") {
      EXPECT_TRUE(plan_.ending < 2) << outcome.text;
    } else if (code == "no_healthy_replicas") {
      EXPECT_TRUE(call.fanned && deaths_ > 0);
    } else {
      ADD_FAILURE() << "unexpected " << code << ": " << outcome.text;
    }
    if (!call.fanned && (says("before it started") || says("was not started") || says("not sent") ||
                         says("before it was sent"))) {
      EXPECT_EQ(runs, 0U) << "it ran, but: " << outcome.text;
    }
  }

  /// Who was executed together may be.
  void check_executions() const {
    std::map<std::pair<std::int32_t, std::uint32_t>, std::vector<const ModelRecord*>> executions;
    for (const ModelRecord& record : log_.records()) {
      ASSERT_TRUE(calls_.contains(record.call)) << record.call << " was executed, nobody called it";
      if (!record.ends) executions[{record.pid, record.execution}].push_back(&record);
    }
    std::set<std::int64_t> ran;
    for (const ModelRecord& record : log_.records()) {
      if (record.ends || ran.insert(record.call).second) continue;
      EXPECT_EQ(record.size, 1U) << "call " << record.call << " was run again in a batch";
    }
    for (const auto& [id, records] : executions) {
      const Call& first = *calls_.at(records.front()->call);
      const std::size_t size = records.front()->size;
      EXPECT_LE(records.size(), size);
      EXPECT_LE(size, first.kind->batched ? first.kind->most : 1) << first.kind->name;
      for (const ModelRecord* record : records) {
        const Call& call = *calls_.at(record->call);
        EXPECT_EQ(call.kind, first.kind);
        EXPECT_EQ(record->session, call.session) << "call " << call.id;
        if (call.session != 0 || call.fanned) {
          EXPECT_EQ(size, 1U) << "call " << call.id << " in a batch";
        }
      }
    }
  }

  /// Calls of a session run one at a time and in the order they were made, over deaths too.
  void check_sessions() const {
    struct State {
      std::int64_t last = 0;
      std::set<std::int64_t> begun;
      const ModelRecord* running = nullptr;
      std::set<std::int32_t> dead;  // processes that did not end a call before the next began
    };
    std::map<std::uint64_t, State> sessions;
    for (const ModelRecord& record : log_.records()) {
      if (record.session == 0 || calls_.at(record.call)->fanned) continue;
      State& session = sessions[record.session];
      EXPECT_FALSE(session.dead.contains(record.pid))
          << "call " << record.call << " beside another of its session";
      if (record.ends) {
        session.running = nullptr;
        continue;
      }
      if (session.running != nullptr) {
        EXPECT_NE(session.running->pid, record.pid)
            << "call " << record.call << " beside " << session.running->call;
        session.dead.insert(session.running->pid);
      }
      session.running = &record;
      // In lockstep a rank runs ahead of another; if that dies, several are run again.
      if (plan_.options.procs > 1 && !session.begun.insert(record.call).second) continue;
      EXPECT_GE(record.call, session.last) << "of one session, out of order";
      session.last = record.call;
    }
  }

  const Plan& plan_;
  const Log& log_;
  std::size_t deaths_;
  std::size_t lost_ = 0;
  std::map<std::int64_t, const Call*> calls_;
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
    options.shutdown_grace = 20ms;
    Controller controller(options);
    Plugin plugin = controller.load(plugin_path("model"));
    for (int round = 0; round < 16 && !HasFailure(); ++round)
      run_round(plugin, static_cast<std::uint32_t>(random()));
  }
  EXPECT_TRUE(returns_to(before));
}

}  // namespace
}  // namespace forge::e2e
