// What it costs others when a worker on the card dies: of its own kernels, or of a kill.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "bench/forge_bench/gpu_bench.h"
#include "bench/forge_bench/kill.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

using namespace std::chrono_literals;

constexpr int kClients = 4;
constexpr int kInflight = 16;

mlp::Shape shape_for(const GpuBench& bench) { return {bench.width(512), 4, DType::f32}; }

forge::Options replicas(int count) {
  forge::Options options = batches_of(16, 512 * sizeof(float), kClients * kInflight);
  options.endpoints["run"].batch_timeout = 1ms;
  options.num_replicas = count;
  return options;
}

std::string outcome(const LoadResult& load) {
  return text("%s answers; %llu wrong, %llu failed", with_commas(load.answered).c_str(),
              static_cast<unsigned long long>(load.wrong),
              static_cast<unsigned long long>(load.failed())) +
         (load.first_error.empty() ? "" : ": " + load.first_error);
}

/// The numbers in what a command prints, a line each.
std::vector<long> numbers_of(const char* command) {
  std::vector<long> numbers;
  std::FILE* const pipe = ::popen(command, "re");
  if (pipe == nullptr) return numbers;
  for (long number = 0; std::fscanf(pipe, "%ld", &number) == 1;) numbers.push_back(number);
  ::pclose(pipe);
  return numbers;
}

/// Signs that this process has met the driver: none, ever.
std::vector<std::string> signs_of_cuda() {
  namespace fs = std::filesystem;
  std::vector<std::string> signs;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    const std::string open = fs::read_symlink(entry.path(), ignored).string();
    if (open.starts_with("/dev/nvidia")) signs.push_back("has " + open + " open");
  }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("libcuda.so") == std::string::npos) continue;
    signs.emplace_back("has libcuda.so loaded");
    break;
  }
  return signs;
}

Bar driver_check() {
  std::vector<std::string> signs = signs_of_cuda();
  const auto listed = numbers_of("nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>&-");
  if (std::ranges::find(listed, static_cast<long>(::getpid())) != listed.end()) {
    signs.emplace_back("is in the driver's list of processes");
  }
  Bar check{.name = "the controller's traces in the driver", .target = "none"};
  check.measured = text("%zu", signs.size());
  check.note = text(
      "no device file open, no libcuda loaded; the driver lists %zu processes, but not "
      "this one",
      listed.size());
  if (!signs.empty()) check.note = "it " + signs.front();
  return at_most(std::move(check), static_cast<double>(signs.size()), 0);
}

std::uint64_t lives(const Service& service) {
  std::uint64_t sum = 0;
  for (const ReplicaStatus& replica : service.replicas()) sum += replica.incarnation;
  return sum;
}

/// Calls the endpoint that writes wildly; gives the seconds from its error until its replica is back.
double lose_one(const Service& service) {
  const std::uint64_t before = lives(service);
  const auto wild = service.endpoint<Tensor()>("write_wildly");
  const auto outcome = wild.with({.timeout = 30s}).route().result();
  if (outcome.has_value()) throw std::runtime_error("an illegal address was answered with a value");
  if (outcome.error().error_code() != ErrorCode::worker_lost) outcome.error().raise();
  const std::int64_t begin = now_ns();
  while (lives(service) == before) {
    if (now_ns() - begin > 30'000'000'000) {
      throw std::runtime_error("an illegal address did not end its worker within 30 s");
    }
    std::this_thread::sleep_for(500us);
  }
  wait_until_healthy(service);
  return static_cast<double>(now_ns() - begin) / 1e9;
}

}  // namespace

std::vector<Bar> fault_checks(GpuBench& bench) {
  constexpr int kLosses = 2;
  const auto rows = std::make_shared<const MlpRows>(shape_for(bench), 64, bench.options().seed);
  std::vector<double> cold;
  for (int i = 0; i < kLosses; ++i) {
    const std::int64_t begin = now_ns();
    const Service service = bench.mlp(shape_for(bench), replicas(1));
    cold.push_back(static_cast<double>(now_ns() - begin) / 1e9);
  }
  const Service service = bench.mlp(shape_for(bench), replicas(2));
  std::vector<double> recoveries;
  std::exception_ptr failure;
  std::atomic<bool> over{false};
  LoadResult load;
  std::jthread losing([&] {
    try {
      std::this_thread::sleep_for(300ms);
      for (int i = 0; i < kLosses; ++i) recoveries.push_back(lose_one(service));
    } catch (...) {
      failure = std::current_exception();
    }
    over.store(true);
  });
  while (!over.load()) load.merge(load_mlp(service, rows, kClients, kInflight, 1));
  losing.join();
  if (failure) std::rethrow_exception(failure);

  Bar others{.name = "illegal address: calls of others", .target = "0 lost, 0 errors"};
  others = holds(std::move(others), load.answered_exactly_once(),
                 load.answered_exactly_once() ? "0" : "SOME");
  others.note = outcome(load);
  Bar back{.name = "illegal address: recovery", .target = "≤ 1.5 × cold start"};
  const double ratio = median(recoveries) / median(cold);
  back.measured = text("%.2f ×", ratio);
  back.note = format_ns(median(recoveries) * 1e9) + "; cold start " + format_ns(median(cold) * 1e9);
  return {others, at_most(std::move(back), ratio, 1.5), driver_check()};
}

std::vector<Bar> planted_checks(GpuBench& bench) {
  const Service service = bench.mlp(shape_for(bench), replicas(1));
  const double seconds = lose_one(service);
  Bar check{.name = "a planted error ends its worker", .target = "it is replaced"};
  return {holds(std::move(check), true, format_ns(seconds * 1e9))};
}

std::vector<Bar> kill_checks(GpuBench& bench) {
  constexpr int kKills = 10;
  const auto rows = std::make_shared<const MlpRows>(shape_for(bench), 64, bench.options().seed);
  const Service service = bench.mlp(shape_for(bench), replicas(2));
  // Where the host poses as a device there is no memory of the device to come back.
  const bool rehearse = bench.options().rehearse;
  const auto used = [&] { return rehearse ? 0 : bench.floor({"memory"}).at("used").get<double>(); };
  LoadResult load = load_mlp(service, rows, kClients, kInflight, 0.2);
  const double before = used();
  for (int i = 0; i < kKills; ++i) {
    wait_until_healthy(service);
    const auto all = service.replicas();
    kill_worker(service, all.at(static_cast<std::size_t>(i) % all.size()).pids.at(0));
    load.merge(load_mlp(service, rows, kClients, kInflight, 0.1));
  }
  wait_until_healthy(service);
  load.merge(load_mlp(service, rows, kClients, kInflight, 0.2));
  // The driver may need a moment to take back what the last of them had.
  double after = used();
  for (int i = 0; i < 20 && after > 1.01 * before; ++i) {
    std::this_thread::sleep_for(100ms);
    after = used();
  }
  const bool right = load.answered_exactly_once();
  Bar calls{.name = text("kill -9 × %d: calls", kKills), .target = "0 lost, 0 errors"};
  calls = holds(std::move(calls), right, right ? "0" : "SOME");
  calls.note = outcome(load);
  if (rehearse) return {calls};
  Bar check{.name = text("kill -9 × %d: device memory", kKills), .target = "≤ 1.01 × before"};
  check.measured = text("%.3f ×", after / before);
  check.note = format_bytes(after) + ", before " + format_bytes(before);
  return {calls, at_most(std::move(check), after / before, 1.01)};
}

std::vector<Bar> soak_checks(GpuBench& bench) {
  constexpr int kReplicas = 4;
  const double half_ms = bench.options().soak_s * 1000 / 2;
  const int kill_every_ms = static_cast<int>(std::clamp(half_ms / 4, 50.0, 3000.0));
  const auto rows = std::make_shared<const MlpRows>(shape_for(bench), 64, bench.options().seed);
  const Service service = bench.mlp(shape_for(bench), replicas(kReplicas));
  LoadResult halves[2];
  std::uint64_t kills = 0;
  for (LoadResult& half : halves) {
    wait_until_healthy(service);
    Killer killer(service, kill_every_ms, bench.options().seed + kills);
    half = load_mlp(service, rows, kClients, kInflight, bench.options().soak_s / 2);
    kills += killer.stop();
  }
  LoadResult all = halves[0];
  all.merge(halves[1]);
  const std::uint64_t refused = service.counters().refused;
  const bool right = all.answered_exactly_once() && refused == 0;
  Bar exact{.name = text("soak %.0f s, %d workers on the card", bench.options().soak_s, kReplicas),
            .target = "0 wrong, lost, doubled"};
  exact = holds(std::move(exact), right, right ? "0" : "SOME");
  exact.note = outcome(all) + text("; %llu kills", static_cast<unsigned long long>(kills));
  Bar pace{.name = "soak: second half", .target = "≥ 0.95 × the first"};
  const double ratio = halves[1].throughput() / halves[0].throughput();
  pace.measured = text("%.2f ×", ratio);
  pace.note = format_rate(halves[0].throughput()) + ", then " + format_rate(halves[1].throughput());
  return {exact, at_least(std::move(pace), ratio, 0.95)};
}

std::vector<Bar> nccl_checks(GpuBench& bench) {
  const auto summed = [](const Service& service) {
    return service.endpoint<Tensor(Tensor)>("summed");
  };
  Tensor x(DType::f32, {4096});
  std::ranges::generate(x.span<float>(), [i = 0]() mutable { return static_cast<float>(i++); });

  const Service alone = bench.mlp({64, 1, DType::f32});
  const Tensor answer = summed(alone).route(x).get();
  Bar one{.name = "all_reduce of one rank on the card", .target = "exact"};
  const bool exact = std::ranges::equal(answer.bytes(), x.bytes());
  one = holds(std::move(one), exact, exact ? "exact" : "DIFFERENT");

  // Ranks whose devices the host poses as are no two on one card.
  if (bench.options().rehearse) return {one};
  constexpr auto kDeadline = 60s;
  Bar two{.name = "two ranks on one card", .target = "a clear error, in time"};
  const std::int64_t begin = now_ns();
  std::string said;
  try {
    forge::Options options;
    options.procs = 2;
    options.start_timeout = kDeadline;
    const Service pair = bench.mlp({64, 1, DType::f32}, options);
    summed(pair).with({.timeout = kDeadline}).route(x).get();
    said = "no error at all";
  } catch (const DeadlineExceeded& error) {
    said = std::string("it hangs: ") + error.what();
  } catch (const Error& error) {
    two.note = error.what();
  }
  const double seconds = static_cast<double>(now_ns() - begin) / 1e9;
  const bool clear = said.empty() && !two.note.empty();
  if (!clear) two.note = said;
  two.note.resize(std::min(two.note.find('\n'), two.note.size()));
  return {one, holds(std::move(two), clear, text("%.1f s", seconds))};
}

}  // namespace forge::bench
