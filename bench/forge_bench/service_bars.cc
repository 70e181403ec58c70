#include "bench/forge_bench/service_bars.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <thread>

#include "bench/forge_bench/allocations.h"
#include "bench/forge_bench/cpus.h"
#include "bench/forge_bench/kill.h"
#include "bench/forge_bench/spawn.h"
#include "bench/forge_bench/text.h"
#include "bench/forge_bench/work.h"
#include "shm/segment.h"

namespace forge::bench {
namespace {

using namespace std::chrono_literals;

/// An echo service of its own controller.
struct EchoService {
  explicit EchoService(const Options& options)
      : plugin(plugin_path(options, "libecho.so")),
        service(start(controller, options, placement(options))) {}

  /// Asks `calls` times and makes sure of the answers.
  void ask(const BytesWork::Echo& echo, int calls) {
    BytesWork work({echo}, 64, 1);
    for (int i = 1; i <= calls; ++i) {
      const auto number = static_cast<std::uint64_t>(i);
      if (!work.check(number, work.send(number).get())) {
        throw std::runtime_error("the echo service gave a wrong answer");
      }
    }
  }

  std::string plugin;
  Controller controller{{.name = "forge-bench", .log_level = LogLevel::error}};
  Service service;
};

double cpu_seconds(clockid_t clock) {
  timespec used{};
  if (::clock_gettime(clock, &used) != 0) throw std::runtime_error("a worker's CPU time is hidden");
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

/// CPU time of this process and all workers.
double cpu_seconds(const Service& service) {
  double total = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
  for (const ReplicaStatus& replica : service.replicas()) {
    for (int pid : replica.pids) {
      clockid_t clock;
      if (::clock_getcpuclockid(pid, &clock) != 0) throw std::runtime_error("an idle worker ended");
      total += cpu_seconds(clock);
    }
  }
  return total;
}

struct Restart {
  double from_kill_ns = 0;   // until the replacement's first answer
  double from_death_ns = 0;  // the same, from when the kernel says that it is dead
};

Restart kill_and_ask(EchoService& echo, const BytesWork::Echo& endpoint) {
  const ReplicaStatus before = echo.service.replicas().at(0);
  const int pid = before.pids.at(0);
  const shm::FileDescriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd death{pidfd.get(), POLLIN, 0};
  const std::int64_t killed = now_ns();
  if (!kill_worker(echo.service, pid)) throw std::runtime_error("no worker could be killed");
  // Waits for the end, so that the old worker cannot be the one that answers.
  ::poll(&death, 1, -1);
  const std::int64_t dead = now_ns();
  echo.ask(endpoint, 1);
  const std::int64_t answered = now_ns();
  if (echo.service.replicas().at(0).incarnation != before.incarnation + 1) {
    throw std::runtime_error("the replica was not replaced exactly once after a kill");
  }
  return {static_cast<double>(answered - killed), static_cast<double>(answered - dead)};
}

}  // namespace

Bar idle_bar(const Options& base, int runs) {
  Options options = base;
  options.replicas = 4;
  EchoService echo(options);
  echo.ask(echo.service.endpoint<Bytes(Bytes)>("bytes"), 400);
  std::this_thread::sleep_for(300ms);
  std::vector<double> shares;
  for (int i = 0; i < runs; ++i) {
    const double used = cpu_seconds(echo.service);
    const std::int64_t begin = now_ns();
    std::this_thread::sleep_for(1s);
    const double seconds = static_cast<double>(now_ns() - begin) / 1e9;
    shares.push_back((cpu_seconds(echo.service) - used) / seconds);
  }
  Bar bar{"idle service, adaptive, 4 replicas", "< 1 % of a core", "", Verdict::met, "", 0, 0.01};
  bar.value = median(shares);
  bar.measured = text("%.3f %%", 100 * bar.value);
  bar.verdict = bar.value < bar.limit ? Verdict::met : Verdict::missed;
  bar.note = text("CPU time of controller and workers, %d × 1 s", runs);
  return bar;
}

Bar allocation_bar(const Options& base) {
  constexpr int kCalls = 20'000;
  Bar bar{"heap allocations per route().get()", "0 but the value", "", Verdict::met, "", 0, 0};
  if (!can_count_allocations()) {
    bar.verdict = Verdict::not_measured;
    bar.note = "the sanitizer owns malloc";
    return bar;
  }
  Options options = base;
  options.wait = Wait::spin;
  EchoService echo(options);
  const auto endpoint = echo.service.endpoint<Bytes(Bytes)>("bytes");
  BytesWork work({endpoint}, 64, base.seed);
  std::uint64_t all = 0;
  std::uint64_t mine = 0;
  {
    // Where the load generator's client would be: next to the worker, not on its core.
    const std::vector<int> client = placement(options).clients;
    const PinnedScope pinned(client.empty() ? allowed_cpus().front() : client.front());
    for (std::uint64_t number = 1; number <= 5'000; ++number) (void)work.send(number).get();
    const AllocationCount count;
    for (std::uint64_t number = 1; number <= kCalls; ++number) {
      const Bytes answer = work.send(number).get();
      if (!work.check(number, answer)) throw std::runtime_error("a wrong answer from echo");
    }
    all = count.total();
    mine = count.by_this_thread();
  }
  // Each answer is a vector of its own; everything else was not needed.
  bar.value = (static_cast<double>(all) - kCalls) / kCalls;
  bar.measured = text("%.4g", bar.value);
  bar.verdict = all <= kCalls ? Verdict::met : Verdict::missed;
  bar.note = with_commas(kCalls) + " calls: " + with_commas(mine) + " by the caller, " +
             with_commas(all - mine) + " by other threads";
  return bar;
}

Bar restart_bar(const Options& base, int runs) {
  EchoService echo(base);
  const auto endpoint = echo.service.endpoint<Bytes(Bytes)>("bytes_idempotent");
  std::vector<double> spawns, from_kill, from_death;
  for (int i = 0; i < 2 * runs; ++i) {
    echo.ask(endpoint, 200);
    std::this_thread::sleep_for(50ms);  // a service that is killed while it is at rest
    spawns.push_back(spawn_and_open_ns(echo.plugin));
    const Restart restart = kill_and_ask(echo, endpoint);
    from_kill.push_back(restart.from_kill_ns);
    from_death.push_back(restart.from_death_ns);
  }
  Bar bar{"SIGKILL to the replacement's answer", "≤ 20 × bare start", "", Verdict::met, "", 0, 20};
  const double bare = median(spawns);
  bar.value = median(from_kill) / bare;
  bar.measured = text("%.2f ×", bar.value);
  bar.verdict = bar.value <= bar.limit ? Verdict::met : Verdict::missed;
  bar.note = format_ns(median(from_kill)) + ", " + format_ns(median(from_death)) +
             " of it after the death; posix_spawn + dlopen " + format_ns(bare);
  return bar;
}

}  // namespace forge::bench
