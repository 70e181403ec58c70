#include "bench/forge_bench/recovery_bars.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "bench/forge_bench/kill.h"
#include "bench/forge_bench/spawn.h"
#include "bench/forge_bench/text.h"
#include "bench/forge_bench/work.h"

namespace forge::bench {
namespace {

using namespace std::chrono_literals;

constexpr int kInflight = 16;
constexpr int kDeathsPerRun = 40;

/// Sends calls to the healthy in turn, and tells whoever has just routed where his call went.
class TellingRouter : public Router {
 public:
  static constexpr std::int64_t kNobody = -1;  ///< it waits for a replica
  const Replica& get_replica(std::span<const Replica> healthy, const RouteContext&) override {
    const Replica& next = healthy[turn_++ % healthy.size()];
    last.store(next.idx);
    return next;
  }
  std::atomic<std::int64_t> last{kNobody};

 private:
  std::size_t turn_ = 0;
};

struct Death {
  std::int64_t replica = 0;
  std::int64_t killed = 0;  // ns, as all of these
  std::int64_t bare = 0;    // a bare watcher saw it
  std::int64_t told = 0;    // forge said so in its log, having dealt with the replica's calls
};
struct Call {
  std::int64_t replica = 0;
  std::int64_t sent = 0;
  std::int64_t done = 0;
};

/// An echo service whose workers are killed one after the other.
class Victims {
 public:
  Victims(const Options& base, int replicas, int spares, Wait wait)
      : plugin_(plugin_path(base, "libecho.so")) {
    forge::Options options;
    options.num_replicas = replicas;
    options.spares = spares;
    options.wait = wait;
    options.name = "bars";
    options.restart = {.backoff_initial = 1ms, .backoff_max = 1ms, .max_deaths = 1'000'000'000};
    options.routers = {{"bytes_idempotent", router_}};
    service_ = std::make_unique<Service>(
        controller_.load(plugin_).actor("Echo").options(options).as_service());
    echo_ = std::make_unique<BytesWork::Echo>(service_->endpoint<Bytes(Bytes)>("bytes_idempotent"));
  }

  const std::string& plugin() const { return plugin_; }
  const Service& service() const { return *service_; }
  const BytesWork::Echo& echo() const { return *echo_; }
  TellingRouter& router() { return *router_; }

  /// Waits until all are up, and gives them a moment to come to rest.
  void settle(std::chrono::nanoseconds rest) const {
    const auto up = [](const std::vector<ReplicaStatus>& all) {
      return std::ranges::all_of(all, [](const ReplicaStatus& one) { return one.healthy; });
    };
    const std::int64_t give_up = now_ns() + 20'000'000'000;
    while (!up(service_->replicas()) || !up(service_->spares())) {
      if (now_ns() > give_up) throw std::runtime_error("a killed replica did not come back");
      std::this_thread::sleep_for(200us);
    }
    std::this_thread::sleep_for(rest);
  }

  Death kill(std::size_t replica) {
    const int pid = service_->replicas().at(replica).pids.at(0);
    const shm::FileDescriptor held = hold_worker(*service_, pid);
    if (!held) throw std::runtime_error("no worker could be killed");
    Death death;
    death.replica = static_cast<std::int64_t>(replica);
    told_.store(0);
    victim_.store(pid);
    std::atomic<bool> watching{false};
    std::jthread bare([&] {
      pollfd dead{held.get(), POLLIN, 0};
      watching.store(true);
      ::poll(&dead, 1, -1);
      death.bare = now_ns();
    });
    while (!watching.load()) std::this_thread::sleep_for(50us);
    std::this_thread::sleep_for(500us);  // it sleeps by now
    death.killed = now_ns();
    send_signal(held, SIGKILL);
    bare.join();
    told_.wait(0);
    death.told = told_.load();
    return death;
  }

 private:
  void hear(std::string_view text) {
    const std::int64_t now = now_ns();
    const int pid = victim_.load();
    if (pid == 0 || text.find("(pid " + std::to_string(pid) + ")") == std::string_view::npos)
      return;
    victim_.store(0);
    told_.store(now);
    told_.notify_all();
  }

  std::string plugin_;
  std::atomic<int> victim_{0};
  std::atomic<std::int64_t> told_{0};
  std::shared_ptr<TellingRouter> router_ = std::make_shared<TellingRouter>();
  Controller controller_{{.name = "forge-bench",
                          .log_level = LogLevel::warning,
                          .on_log = [this](LogLevel, std::string_view text) { hear(text); }}};
  std::unique_ptr<Service> service_;
  std::unique_ptr<BytesWork::Echo> echo_;
};

/// One client that always has kInflight calls open.
class Client {
 public:
  explicit Client(Victims& victims) : victims_(victims), thread_([this] { run(); }) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { stop(); }

  void stop() {
    stopping_.store(true);
    if (thread_.joinable()) thread_.join();
    if (!failure_.empty()) throw std::runtime_error(failure_);
  }
  /// From now on, what is done is remembered one by one; otherwise only how long it takes.
  void remember(bool calls) { remembering_.store(calls); }
  const std::vector<Call>& calls() const { return calls_; }
  const Histogram& usual() const { return usual_; }

 private:
  struct Open {
    std::uint64_t number;
    Call call;
    Future<Bytes> future;
  };
  void run() try {
    BytesWork work({victims_.echo()}, 64, 1);
    std::deque<Open> open;
    for (std::uint64_t number = 1; !stopping_.load(std::memory_order_relaxed);) {
      while (open.size() < kInflight) {
        victims_.router().last.store(TellingRouter::kNobody);
        const std::int64_t sent = now_ns();
        Future<Bytes> future = work.send(number);
        open.push_back({number++, {victims_.router().last.load(), sent, 0}, std::move(future)});
      }
      Open& oldest = open.front();
      const Bytes answer = oldest.future.get();
      oldest.call.done = now_ns();
      if (!work.check(oldest.number, answer)) throw std::runtime_error("a wrong answer from echo");
      if (remembering_.load(std::memory_order_relaxed)) {
        calls_.push_back(oldest.call);
      } else {
        usual_.record(oldest.call.done - oldest.call.sent);
      }
      open.pop_front();
    }
    for (Open& one : open) (void)one.future.get();
  } catch (const std::exception& error) {
    failure_ = error.what();
  }

  Victims& victims_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> remembering_{false};
  std::vector<Call> calls_;  // the thread's, until it is joined
  Histogram usual_;
  std::string failure_;
  std::jthread thread_;
};

struct Deaths {
  Histogram bare;              ///< from the kill
  Histogram told;              ///< likewise
  Histogram added;             ///< to the calls of the dead, over what is usual
  std::vector<double> starts;  ///< of bare processes
};

void note(const Death& death, Deaths& deaths) {
  deaths.bare.record(death.bare - death.killed);
  deaths.told.record(death.told - death.killed);
}

Deaths kill_under_load(Victims& victims, int times) {
  Deaths deaths;
  std::vector<Death> all;
  Client client(victims);
  const std::size_t replicas = victims.service().replicas().size();
  for (int i = 0; i < times; ++i) {
    if (i % 8 == 0) deaths.starts.push_back(spawn_and_open_ns(victims.plugin()));
    victims.settle(3ms);
    client.remember(true);
    all.push_back(victims.kill(static_cast<std::size_t>(i) % replicas));
    note(all.back(), deaths);
    victims.settle(1ms);  // what it had is answered
    client.remember(false);
  }
  client.stop();
  const auto usual = static_cast<std::int64_t>(client.usual().percentile(0.5));
  for (const Call& call : client.calls()) {
    const bool affected = std::ranges::any_of(all, [&](const Death& death) {
      const bool its = call.replica == death.replica || call.replica == TellingRouter::kNobody;
      return its && call.sent < death.told && call.done > death.bare;
    });
    if (affected) deaths.added.record(std::max<std::int64_t>(0, call.done - call.sent - usual));
  }
  return deaths;
}

std::string p50_p99(const Histogram& times) {
  return format_ns(times.percentile(0.5)) + " / " + format_ns(times.percentile(0.99));
}

void judge(Bar& bar, bool at_most = true) {
  bar.verdict = (bar.value <= bar.limit) == at_most ? Verdict::met : Verdict::missed;
}

/// Memory that the files behind a worker's descriptors take, and how much they could.
struct ControlFiles {
  double resident = 0;
  double size = 0;
};
ControlFiles control_files(int pid) {
  ControlFiles files;
  namespace fs = std::filesystem;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code ignored;
    const std::string name = fs::read_symlink(entry.path(), ignored).string();
    if (name.find("memfd:forge") == std::string::npos) continue;
    if (name.find(":requests") == std::string::npos && name.find(":responses") == std::string::npos)
      continue;
    struct stat status {};
    if (::stat(entry.path().c_str(), &status) != 0) continue;
    files.resident += static_cast<double>(status.st_blocks) * 512;
    files.size += static_cast<double>(status.st_size);
  }
  return files;
}

double cpu_seconds(clockid_t clock) {
  timespec used{};
  ::clock_gettime(clock, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

}  // namespace

std::vector<Bar> death_bars(const Options& base, int runs) {
  Deaths busy;
  {
    Victims victims(base, 2, 0, Wait::adaptive);
    busy = kill_under_load(victims, runs * kDeathsPerRun);
  }
  Deaths parked;
  {
    Victims victims(base, 2, 0, Wait::block);
    for (int i = 0; i < runs * kDeathsPerRun / 2; ++i) {
      victims.settle(5ms);
      note(victims.kill(static_cast<std::size_t>(i) % 2), parked);
    }
  }

  Bar seen{"a death under load is seen: p99", "≤ 1.5 × bare pidfd", "", Verdict::met, "", 0, 1.5};
  seen.value = busy.told.percentile(0.99) / busy.bare.percentile(0.99);
  seen.measured = text("%.2f ×", seen.value);
  seen.note = "SIGKILL to forge's word p50 / p99 " + p50_p99(busy.told) + "; bare " +
              p50_p99(busy.bare) +
              text(", %llu deaths", static_cast<unsigned long long>(busy.told.count()));
  judge(seen);

  Bar asleep{"a parked worker's death: p99", "≤ 5 ms", "", Verdict::met, "", 0, 5e6};
  asleep.value = parked.told.percentile(0.99);
  asleep.measured = format_ns(asleep.value);
  asleep.note = "p50 / p99 " + p50_p99(parked.told) + "; bare " + p50_p99(parked.bare);
  judge(asleep);

  Bar wait{"its calls, 2 replicas: added p99", "≤ 10 × bare start", "", Verdict::met, "", 0, 10};
  const double start = median(busy.starts);
  wait.value = busy.added.percentile(0.99) / start;
  wait.measured = text("%.2f ×", wait.value);
  wait.note = "p50 / p99 " + p50_p99(busy.added) + " added to " + with_commas(busy.added.count()) +
              " calls; posix_spawn + dlopen " + format_ns(start);
  judge(wait);
  return {std::move(seen), std::move(asleep), std::move(wait)};
}

Bar spare_bar(const Options& base, int runs) {
  Victims victims(base, 1, 1, Wait::adaptive);
  const Deaths deaths = kill_under_load(victims, runs * kDeathsPerRun / 2);
  Bar bar{
      "its calls, 1 replica + spare: added p99", "≤ detection + 2 ms", "", Verdict::met, "", 0, 0};
  bar.value = deaths.added.percentile(0.99);
  bar.limit = deaths.told.percentile(0.99) + 2e6;
  bar.measured = format_ns(bar.value);
  bar.note = "p50 / p99 " + p50_p99(deaths.added) + " added to " +
             with_commas(deaths.added.count()) + " calls; detection " + p50_p99(deaths.told);
  judge(bar);
  return bar;
}

std::vector<Bar> death_cost_bars(const Options& base, int runs) {
  constexpr double kEvery = 0.02;
  Victims victims(base, 4, 0, Wait::adaptive);
  BytesWork work({victims.echo()}, 64, base.seed);
  for (std::uint64_t number = 1; number <= 100; ++number) (void)work.send(number).get();

  Bar memory{"control files of a worker", "≤ 2 MiB resident", "", Verdict::met, "", 0, 2 << 20};
  const ControlFiles files = control_files(victims.service().replicas().at(0).pids.at(0));
  memory.value = files.resident;
  memory.measured = format_bytes(files.resident);
  memory.note =
      "blocks of its request and response files; they may grow to " + format_bytes(files.size);
  judge(memory);
  if (files.resident == 0) memory.verdict = Verdict::not_measured;

  // Kills and asks from here; what this thread uses is not the controller's.
  const std::int64_t begin = now_ns();
  const double before = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
  const double mine = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
  const int kills = static_cast<int>(runs / kEvery);
  int killed = 0;
  for (int i = 0; i < kills; ++i) {
    const auto next = begin + static_cast<std::int64_t>((i + 1) * kEvery * 1e9);
    const ReplicaStatus victim = victims.service().replicas().at(static_cast<std::size_t>(i % 4));
    if (!victim.pids.empty() && kill_worker(victims.service(), victim.pids.at(0))) ++killed;
    (void)work.send(static_cast<std::uint64_t>(i) + 1).get();
    std::this_thread::sleep_for(
        std::chrono::nanoseconds(std::max<std::int64_t>(0, next - now_ns())));
  }
  const double seconds = static_cast<double>(now_ns() - begin) / 1e9;
  const double used = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - before -
                      (cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - mine);
  Bar cpu{"controller, 50 kills/s, 4 replicas", "≤ 0.3 of a core", "", Verdict::met, "", 0, 0.3};
  cpu.value = used / seconds;
  cpu.measured = text("%.3f", cpu.value);
  cpu.note = text("%.0f kills/s came about; ", killed / seconds) + format_ns(used / killed * 1e9) +
             " of CPU time each, the killer's own left out";
  judge(cpu);
  if (killed / seconds < 0.9 / kEvery) {
    cpu.verdict = Verdict::noisy;
  }
  return {std::move(memory), std::move(cpu)};
}

}  // namespace forge::bench
