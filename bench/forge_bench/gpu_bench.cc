#include "bench/forge_bench/gpu_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <thread>
#include <utility>

#include "bench/forge_bench/options.h"
#include "bench/forge_bench/text.h"
#include "gpu/backend_loader.h"
#include "gpu/devices.h"
#include "tools/plugins/digits/serving.h"
#include "tools/plugins/mlp/serving.h"

extern char** environ;

namespace forge::bench {
namespace {

using namespace std::chrono_literals;

std::string plugin(const GpuOptions& options, const char* name) {
  bench::Options where;
  where.plugin_dir = options.plugin_dir;
  return plugin_path(where, "lib" + std::string(name) + (options.rehearse ? ".so" : "_cuda.so"));
}

void require_device(const GpuOptions& options) {
  const char* const fakes = std::getenv("FORGE_FAKE_DEVICES");  // NOLINT(concurrency-mt-unsafe)
  const auto devices = gpu::visible_devices(gpu::list_devices(fakes == nullptr ? "/" : fakes));
  if (devices.empty()) {
    throw UsageError(
        "there is no NVIDIA device: the driver lists none under /proc/driver/nvidia/gpus that "
        "CUDA_VISIBLE_DEVICES allows. Run this on a machine with one");
  }
  if (devices.front().uuid.starts_with(gpu::kFakeDevicePrefix) != options.rehearse) {
    throw UsageError(options.rehearse
                         ? "--rehearse is for devices that the host poses as; the one here is real"
                         : "the devices of FORGE_FAKE_DEVICES are no cards; --rehearse goes "
                           "through the checks with them");
  }
}

std::string floor_path() {
  namespace fs = std::filesystem;
  return (fs::read_symlink("/proc/self/exe").parent_path() / "forge-gpu-floor").string();
}

/// What a program prints, and its status as of waitpid().
std::pair<std::string, int> output_of(const std::string& program,
                                      const std::vector<std::string>& arguments) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe to forge-gpu-floor");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = -1;
  const int error = ::posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  std::string output;
  std::array<char, 4096> piece;
  for (ssize_t got = 0; error == 0 && (got = ::read(ends[0], piece.data(), piece.size())) > 0;) {
    output.append(piece.data(), static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  if (error != 0) throw std::runtime_error(program + " could not be started; build it");
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return {std::move(output), status};
}

}  // namespace

GpuBench::GpuBench(GpuOptions options)
    : options_(std::move(options)),
      floor_(floor_path()),
      controller_({.name = "forge-bench", .log_level = LogLevel::off}) {
  require_device(options_);
  for (const char* name : {"mlp", "digits"}) plugin(options_, name);
  if (!options_.rehearse && ::access(floor_.c_str(), X_OK) != 0) {
    throw UsageError("there is no " + floor_ +
                     "; build forge-gpu-floor, for which CUDA's toolkit "
                     "must be found");
  }
}

Service GpuBench::start(const char* name, const char* actor, forge::Options service,
                        const auto&... arguments) {
  service.with_gpus = true;
  service.gpu_share = true;  // there is one card, and tests of deaths want two workers on it
  service.restart.max_deaths = 1'000'000;
  auto known = plugins_.find(name);
  if (known == plugins_.end()) {
    known = plugins_.emplace(name, controller_.load(plugin(options_, name))).first;
  }
  return known->second.actor(actor).options(service).as_service(arguments...);
}

Service GpuBench::mlp(const mlp::Shape& shape, forge::Options service) {
  return start("mlp", "Mlp", std::move(service), static_cast<std::int64_t>(shape.width),
               static_cast<std::int64_t>(shape.depth), std::string(to_string(shape.dtype)));
}

Service GpuBench::sweep(int passes, forge::Options service) {
  return start("mlp", "Sweep", std::move(service), passes);
}

Service GpuBench::digits() { return start("digits", "Digits", {}); }

nlohmann::json GpuBench::floor(const std::vector<std::string>& arguments) const {
  const auto [output, status] = output_of(floor_, arguments);
  if (status != 0) {
    throw std::runtime_error("forge-gpu-floor " + arguments.front() +
                             text(" ended with status %d; run it by itself", WEXITSTATUS(status)));
  }
  return nlohmann::json::parse(output);
}

forge::Options batches_of(int rows, std::size_t row_bytes, int outstanding) {
  forge::Options options;
  EndpointOptions run = mlp::serving();
  run.batch_size = rows;
  // Clients keep several batches under way, so a batch that is not full is the last of a run.
  run.batch_timeout = 20ms;
  options.endpoints = {{"run", run}};
  options.max_queued_requests = std::max(options.max_queued_requests, 2 * outstanding);
  const auto rows_at_once = static_cast<std::size_t>(2 * outstanding + 4 * rows);
  options.arena_bytes = std::max(options.arena_bytes, rows_at_once * (row_bytes + 4096));
  return options;
}

LoadResult load_mlp(const Service& service, const std::shared_ptr<const MlpRows>& rows, int clients,
                    int inflight, double seconds) {
  const LoadPlan plan{
      .clients = clients, .inflight = inflight, .warmup_s = 0.3, .duration_s = seconds};
  const auto run = service.endpoint<Tensor(Tensor)>("run");
  return run_load(plan, [&](int) { return MlpWork(run, rows); });
}

double wait_until_healthy(const Service& service) {
  const std::int64_t begin = now_ns();
  const auto up = [&] {
    const auto replicas = service.replicas();
    return std::ranges::all_of(replicas, [](const ReplicaStatus& one) { return one.healthy; });
  };
  while (!up()) {
    if (now_ns() - begin > 60'000'000'000) {
      throw std::runtime_error("a replica on the card did not come back within a minute");
    }
    std::this_thread::sleep_for(500us);
  }
  return static_cast<double>(now_ns() - begin) / 1e9;
}

}  // namespace forge::bench
