// What forge-bench is told on its command line, and where that puts its threads.
#pragma once

#include <forge/options.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace forge::bench {

/// The command line asks for something that cannot be done. Exit status 2.
class UsageError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Work { echo, digits };

struct Options {
  Work work = Work::echo;
  int replicas = 1;
  int procs = 1;
  int clients = 1;
  int inflight = 1;          ///< futures each client holds
  std::size_t payload = 64;  ///< bytes
  Wait wait = Wait::adaptive;
  double duration_s = 2;
  double warmup_s = 0.3;
  std::uint64_t seed = 1;
  std::vector<int> cpus;  ///< empty: see placement()
  int repeat = 1;
  int kill_every_ms = 0;  ///< 0: nobody is killed
  int sessions = 0;       ///< that the calls belong to, in turn; 0: to none
  // Of the endpoint; what is not said is what the plugin registered.
  std::optional<int> batch_size;
  std::optional<std::chrono::nanoseconds> batch_timeout;
  std::string router;
  std::string json;  ///< empty: no file
  std::string plugin_dir;
};

/// Every request carries its number.
inline constexpr std::size_t kNumberBytes = sizeof(std::uint64_t);
/// From here on payloads travel as tensors.
inline constexpr std::size_t kSmallestTensor = std::size_t{64} << 10;
inline bool uses_tensors(const Options& options) {
  return options.work == Work::echo && options.payload >= kSmallestTensor;
}
/// One to one: the case in which latency means something.
inline bool is_round_trip(const Options& options) {
  return options.clients == 1 && options.inflight == 1;
}

/// What the load calls: an endpoint of an actor of a plugin, and how it is called.
struct Target {
  const char* plugin;  ///< file
  const char* actor;
  std::string endpoint;
  EndpointOptions options;
};
Target target(const Options& options);
/// Tensors that are rows of a batch, filled where the batch will lie.
bool uses_rows(const Options& options);

/// Where threads go; empty means anywhere.
struct Placement {
  std::vector<int> clients;
  std::vector<int> workers;
  std::vector<int> floor;  ///< two cores, or none if there are not two
};

/// With --cpus: the first core for client threads, the rest for workers. Without: one client and
/// one worker are pinned like the floor's two processes, so that the ratio compares like with like;
/// more of them are left to the kernel. Throws UsageError for a core this process may not use.
Placement placement(const Options& options);

/// The folder with the plugins: --plugin-dir, $FORGE_PLUGIN_DIR, or where build and installation
/// put them. Throws UsageError if `file` is not there.
std::string plugin_path(const Options& options, const std::string& file);

const char* to_string(Wait wait);

/// Throws UsageError if what the options say cannot be together.
void check(const Options& options);

}  // namespace forge::bench
