// What tests with real processes need: where the plugins are, what this process holds of the system,
// how often an actor really ran, and how to kill somebody at a known moment.
#pragma once

#include <fcntl.h>
#include <forge/forge.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace forge::e2e {

using namespace std::chrono_literals;

/// When a test gives up on something that must happen. Not a bound on time: a hang has to end.
inline constexpr std::chrono::seconds kPatience{45};

/// Polls until it is true; false when patience is at its end.
template <class Predicate>
[[nodiscard]] bool wait_until(Predicate&& predicate, std::chrono::milliseconds limit = kPatience) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!predicate()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(500us);
  }
  return true;
}

inline std::string plugin_path(const std::string& name) {
  const char* folder = std::getenv("FORGE_PLUGIN_DIR");
  return (folder == nullptr ? std::string(".") : std::string(folder)) + "/lib" + name + ".so";
}

struct CommandRun {
  int status = -1;
  std::string output;  ///< and what it wrote to stderr
};
/// The forge command, which lies beside the plugins.
inline CommandRun run_forge(const std::string& arguments) {
  const std::string command = std::filesystem::path(plugin_path("x")).parent_path() / "forge ";
  std::FILE* const pipe = ::popen((command + arguments + " 2>&1").c_str(), "re");
  CommandRun run;
  for (int c; (c = std::fgetc(pipe)) != EOF;) run.output.push_back(static_cast<char>(c));
  run.status = ::pclose(pipe);
  return run;
}

/// Printed, and taken from FORGE_TEST_SEED if that is set.
inline std::uint64_t test_seed() {
  const char* given = std::getenv("FORGE_TEST_SEED");
  const std::uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::printf("FORGE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

/// Silent: these tests make workers die on purpose.
inline ControllerOptions quiet() {
  ControllerOptions options;
  options.log_level = LogLevel::off;
  return options;
}

/// Deaths are answered at once, however many there are, so that tests do not wait for backoff.
inline forge::RestartPolicy restart_at_once() {
  return {.backoff_initial = 1ms, .backoff_max = 1ms, .max_deaths = 1'000'000};
}

// ---- processes

inline std::vector<int> pids_of(const Service& service) {
  std::vector<int> all;
  for (const auto& replica : service.replicas())
    all.insert(all.end(), replica.pids.begin(), replica.pids.end());
  return all;
}

/// It has no entry in the process table any more.
inline bool gone(int pid) { return ::kill(pid, 0) != 0 && errno == ESRCH; }

/// It executes nothing any more: reaped, or a zombie.
inline bool ended(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const auto name_end = line.rfind(')');  // the name in parentheses may contain anything
  return name_end == std::string::npos || line.substr(name_end + 2, 1) == "Z";
}

/// SIGKILL, and waits until somebody has reaped it. forge hears of it at about the same time.
inline void kill_and_wait(int pid) {
  ASSERT_GT(pid, 0);
  ::kill(pid, SIGKILL);
  ASSERT_TRUE(wait_until([&] { return gone(pid); })) << "pid " << pid << " was never reaped";
}

/// And none of a worker that forge has reaped and not yet buried.
[[nodiscard]] inline bool all_healthy(const Service& service) {
  return std::ranges::all_of(service.replicas(), [](const ReplicaStatus& replica) {
    return replica.healthy && std::ranges::none_of(replica.pids, gone);
  });
}

[[nodiscard]] inline bool wait_healthy(const Service& service) {
  return wait_until([&] { return all_healthy(service); });
}

/// Waits until replica `idx` is up in a life later than `incarnation`.
[[nodiscard]] inline bool wait_restarted(const Service& service, std::size_t idx,
                                         std::uint64_t incarnation) {
  return wait_until([&] {
    const auto replica = service.replicas().at(idx);
    return replica.healthy && replica.incarnation > incarnation;
  });
}

/// Processes whose parent is this one, zombies too.
inline std::set<int> children() {
  std::set<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    std::string line;
    std::getline(file, line);
    const auto end = line.rfind(')');  // the name in parentheses may contain anything
    if (end == std::string::npos) continue;
    std::istringstream rest(line.substr(end + 1));
    std::string state;
    int parent = 0;
    if (rest >> state >> parent && parent == ::getpid()) found.insert(std::stoi(name));
  }
  return found;
}

/// What this process holds of the system (invariant I5).
struct Footprint {
  std::size_t descriptors = 0;
  std::size_t segments = 0;  ///< mappings of forge's shared memory
  std::size_t processes = 0;

  static Footprint now() {
    Footprint result;
    std::error_code ignored;
    for (std::filesystem::directory_iterator it("/proc/self/fd", ignored), end; it != end; ++it)
      ++result.descriptors;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);)
      result.segments += line.find("memfd:forge") != std::string::npos;
    result.processes = children().size();
    return result;
  }
  bool within(const Footprint& other) const {
    return descriptors <= other.descriptors && segments <= other.segments &&
           processes <= other.processes;
  }
  friend std::ostream& operator<<(std::ostream& out, const Footprint& held) {
    return out << held.descriptors << " descriptors, " << held.segments << " segments, "
               << held.processes << " processes";
  }
};

/// Waits for the footprint to be no more than `expected`, which may itself count something that was
/// on its way out; what has been given up may take a moment to go.
inline ::testing::AssertionResult returns_to(const Footprint& expected) {
  Footprint now;
  if (wait_until([&] { return (now = Footprint::now()).within(expected); }, 10s))
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "held " << expected << " before, " << now << " now";
}

/// A folder that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "forge-e2e-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// The file that Faulty::record appends to: executions, counted outside of forge. A kill can cut a
/// line in two where it crosses a page: where kills fall into writes, lines must be of 8 bytes.
class Tally {
 public:
  explicit Tally(const TemporaryFolder& folder, const std::string& name = "tally")
      : path_(folder.file(name)) {}
  const std::string& path() const { return path_; }

  /// Executions begun, in order.
  std::vector<std::int64_t> lines() const {
    std::ifstream file(path_);
    std::vector<std::int64_t> values;
    for (std::int64_t value; file >> value;) values.push_back(value);
    return values;
  }
  std::map<std::int64_t, int> counts() const {
    std::map<std::int64_t, int> result;
    for (const std::int64_t value : lines()) ++result[value];
    return result;
  }
  int count(std::int64_t value) const {
    const auto all = counts();
    const auto found = all.find(value);
    return found == all.end() ? 0 : found->second;
  }
  [[nodiscard]] bool wait_for(std::int64_t value, int times = 1) const {
    return wait_until([&] { return count(value) >= times; });
  }

 private:
  std::string path_;
};

// ---- calls

/// "ok" or the code of its error.
template <class T>
std::string outcome(const Result<T>& result) {
  return result.has_value() ? "ok" : std::string(result.error().code());
}

/// The result, or a failed test instead of a hang.
template <class T>
Result<T> await(Future<T> future) {
  if (!future.wait_for(kPatience)) {
    ADD_FAILURE() << "a future never completed";
    return DeadlineExceeded("the test gave up");
  }
  return future.result();
}

/// How often each outcome came; empties `futures`.
template <class T>
std::map<std::string, std::size_t> outcomes(std::vector<Future<T>>& futures) {
  std::map<std::string, std::size_t> result;
  for (auto& future : futures) ++result[outcome(await(std::move(future)))];
  futures.clear();
  return result;
}
using Outcomes = std::map<std::string, std::size_t>;

/// Sends every call to one replica, while that is healthy.
class PinRouter : public Router {
 public:
  explicit PinRouter(std::uint32_t idx = 0) : target(idx) {}
  const Replica& get_replica(std::span<const Replica> healthy, const RouteContext&) override {
    for (const Replica& replica : healthy) {
      if (replica.idx == target) return replica;
    }
    return healthy.front();
  }
  std::atomic<std::uint32_t> target;
};

/// Holds whoever routes, and with him the service's lock: nothing the workers publish meanwhile is
/// fetched, and no death is dealt with.
class HoldRouter : public Router {
 public:
  const Replica& get_replica(std::span<const Replica> healthy, const RouteContext&) override {
    std::unique_lock lock(mutex_);
    held_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return released_; });
    return healthy.front();
  }
  void wait_held() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return held_; });
  }
  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  bool released_ = false;
};

/// A controller with the faulty plugin, and a place for tallies.
class FaultyTest : public ::testing::Test {
 protected:
  using Record = void(const std::string&, std::int64_t);
  using RecordAndSleep = void(const std::string&, std::int64_t, std::int64_t);

  Service start(Options options) { return faulty_.actor("Faulty").options(options).as_service(); }

  TemporaryFolder folder_;
  Tally tally_{folder_};
  Controller controller_{quiet()};
  Plugin faulty_ = controller_.load(plugin_path("faulty"));
};

}  // namespace forge::e2e
