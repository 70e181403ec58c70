#include "bench/forge_bench/chaos.h"

#include <forge/controller.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "bench/forge_bench/chaos_client.h"
#include "bench/forge_bench/chaos_tally.h"
#include "bench/forge_bench/machine.h"
#include "bench/forge_bench/options.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

using namespace std::chrono_literals;

/// How long what has been given up may take to go.
constexpr auto kAfterglow = 10s;
/// The same for a service that nobody calls; then it is called, as whoever polls may hold what was
/// there when it last looked.
constexpr auto kIdle = 2s;

double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

forge::Options service_options(const ChaosOptions& options) {
  forge::Options result;
  result.num_replicas = options.replicas;
  result.name = "chaos";
  result.spares = options.spares;
  result.procs = options.procs;
  result.arena_bytes = options.arena;
  // Workers die all the time here, many of them by themselves: nobody is given up for it.
  result.restart = {.backoff_initial = 1ms, .backoff_max = 10ms, .max_deaths = 1'000'000'000};
  return result;
}

/// How many calls are lost with one worker at most. A call has started when any rank has, and one rank may
/// be ahead of another by all that is in their rings.
std::uint64_t calls_at_once(const ChaosOptions& options) {
  if (options.procs > 1) return ChaosRules{}.window;
  if (!options.coroutines) return 1;
  return static_cast<std::uint64_t>(forge::Options{}.replica_max_concurrent_requests);
}

/// Waits until no more is held than before, or for as long as it may take.
template <class Look>
Held settled(const Held& before, std::chrono::nanoseconds limit, Look&& look) {
  const auto give_up = std::chrono::steady_clock::now() + limit;
  Held now = look();
  while (!now.within(before) && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(20ms);
    now = look();
  }
  return now;
}

/// The client threads, and a line for whoever watches.
class Traffic {
 public:
  Traffic(const Service& service, const ChaosTally& tally, const ChaosOptions& options,
          const ChaosRules& rules) {
    for (int i = 0; i < options.clients; ++i)
      clients_.push_back(std::make_unique<ChaosClient>(service, tally, options, rules, i));
  }

  /// Gives the seconds that it took.
  double run(double duration_s) {
    const std::int64_t begin = now_ns();
    std::vector<std::jthread> threads;
    for (auto& client : clients_) {
      threads.emplace_back([&] {
        try {
          client->run(stopping_, settled_);
        } catch (const std::exception& error) {
          const std::lock_guard lock(mutex_);
          if (failure_.empty()) failure_ = error.what();
        }
        done_.fetch_add(1);
      });
    }
    watch(begin, duration_s);
    threads.clear();
    return static_cast<double>(now_ns() - begin) / 1e9;
  }
  void add_to(ChaosRun& run) const {
    for (const auto& client : clients_) {
      run.ledger.merge(client->ledger());
      if (run.first_error.empty()) run.first_error = client->first_error();
    }
    if (!failure_.empty()) run.ledger.complain("a client broke off: " + failure_);
  }
  const std::vector<ChaosSixth>& sixths() const { return sixths_; }
  void recheck() {
    for (auto& client : clients_) client->recheck();
  }

 private:
  void watch(std::int64_t begin, double duration_s) {
    const bool show = ::isatty(STDERR_FILENO) == 1;
    const std::int64_t end = begin + static_cast<std::int64_t>(duration_s * 1e9);
    std::int64_t shown = 0;
    std::int64_t sixth_began = begin;
    std::uint64_t answers_before = 0;
    while (done_.load() < clients_.size()) {
      const std::int64_t now = now_ns();
      if (now >= end) stopping_.store(true);
      const auto passed = static_cast<double>(now - begin) / 1e9;
      if (sixths_.size() < 6 &&
          6 * passed >= duration_s * static_cast<double>(sixths_.size() + 1)) {
        const std::uint64_t answers = settled_.load();
        sixths_.push_back({answers - answers_before, static_cast<double>(now - sixth_began) / 1e9,
                           resident_bytes("self"), held_now()});
        answers_before = answers;
        sixth_began = now;
      }
      if (show && now - shown > 200'000'000) {
        shown = now;
        std::fprintf(stderr, "\r\033[Kchaos: %.1f s to go, %s answers",
                     static_cast<double>(std::max<std::int64_t>(0, end - now)) / 1e9,
                     with_commas(settled_.load()).c_str());
      }
      std::this_thread::sleep_for(5ms);
    }
    if (show) std::fputs("\r\033[K", stderr);
  }

  std::vector<std::unique_ptr<ChaosClient>> clients_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> settled_{0};
  std::atomic<std::size_t> done_{0};
  std::vector<ChaosSixth> sixths_;
  std::mutex mutex_;
  std::string failure_;  // guarded
};

/// When nothing changes any more: what the next life needs is prepared in the background.
Held steady(const Service& service) {
  Held held = held_now(service);
  for (int same = 0; same < 5; ++same) {
    std::this_thread::sleep_for(20ms);
    const Held now = held_now(service);
    if (!now.within(held) || !held.within(now)) same = 0;
    held = now;
  }
  return held;
}

/// One call of every replica.
void call_all(const Service& service, const ChaosTally& tally) {
  // The last slots belong to no client.
  const auto ask = service.endpoint<chaos::Answer(chaos::Question)>("ask_all");
  const std::size_t slot = tally.slots() - chaos::kMostReplicas;
  static_cast<void>(
      ask.fanout(chaos::Question{1, slot, chaos::kNoSession, chaos::bytes_of(1)}).get());
}

void serve(const ActorFactory& actor, const ChaosTally& tally, const ChaosOptions& options,
           const ChaosRules& rules, ChaosRun& run) {
  Service service = actor.options(service_options(options))
                        .as_service(tally.path(), static_cast<std::uint64_t>(tally.slots()));
  call_all(service, tally);
  run.before = steady(service);

  Traffic traffic(service, tally, options, rules);
  const double cpu = cpu_seconds();
  {
    ChaosFaults faults(service, tally, options);
    run.seconds = traffic.run(options.duration_s);
    run.sixths = traffic.sixths();
    run.core_share = (cpu_seconds() - cpu) / run.seconds;
    run.faults = faults.stop();
  }
  run.after = settled(run.before, kIdle, [&] { return held_now(service); });
  if (!run.after.within(run.before)) {
    run.held_while_idle = describe(run.after);
    run.after = settled(run.before, kAfterglow, [&] {
      call_all(service, tally);
      return held_now(service);
    });
  }
  run.counters = service.counters();
  for (const ReplicaStatus& replica : service.replicas()) run.end.deaths += replica.incarnation - 1;
  service.shutdown();
  traffic.recheck();  // nobody is left who could execute anything
  traffic.add_to(run);
}

/// What neither a request nor a client knows.
void close(const ChaosTally& tally, ChaosRun& run) {
  for (const chaos::Fault fault : {chaos::Fault::corrupt, chaos::Fault::forged})
    run.end.scribbled += tally->fired[static_cast<std::size_t>(fault)].load();
  run.end.violations = run.counters.violations;
  run.end.refused = run.counters.refused;
  run.ledger.close(run.end);
  run.out_of_order = tally->out_of_order.load();
  if (run.out_of_order != 0) {
    run.ledger.complain(text("%llu calls of sessions were executed out of order, this one first",
                             static_cast<unsigned long long>(run.out_of_order)),
                        tally->first_out_of_order.load());
  }
  if (tally->garbled.load() != 0)
    run.ledger.complain("the request arrived garbled", tally->first_garbled.load());
  for (const std::string& replica : run.faults.not_back) run.ledger.complain(replica);
  if (!run.after.within(run.before))
    run.ledger.complain("leaked: " + describe(run.before) + " before the first fault, " +
                        describe(run.after) + " after the last");
  if (!run.process_after.within(run.process_before))
    run.ledger.complain("leaked: " + describe(run.process_before) + " before the controller, " +
                        describe(run.process_after) + " after it");
}

}  // namespace

ChaosRun run_chaos(const ChaosOptions& options) {
  Options where;
  where.plugin_dir = options.plugin_dir;
  const std::string plugin = plugin_path(where, "libchaos.so");
  const ChaosRules rules{.idempotent_succeed = only_outside_kills(options),
                         .batch_size = chaos::kBatchSize,
                         .may_fill_up = may_fill_up(options),
                         .at_once = calls_at_once(options)};
  const ChaosTally tally(static_cast<std::size_t>(options.clients) * kChaosSlots +
                         chaos::kMostReplicas);
  ChaosRun run(rules);
  run.process_before = held_now();
  {
    // Silent: workers die on purpose.
    Controller controller({.name = "forge-bench", .log_level = LogLevel::off});
    serve(controller.load(plugin).actor(options.coroutines ? "ChaosTasks" : "Chaos"), tally,
          options, rules, run);
  }
  run.process_after = settled(run.process_before, kAfterglow, [] { return held_now(); });
  close(tally, run);
  return run;
}

}  // namespace forge::bench
