// Options: how a service or mesh is run, and how an endpoint of an actor is called.
//
// Plain aggregates: write `{.procs = 2, .num_replicas = 4}` and leave out what is fine as it is.
// Nothing is checked here; whoever takes the options says what is wrong with them.
#pragma once

#include <forge/wait.h>

#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace forge {

class Router;
class ScalingPolicy;

/// When the workers of a dead replica are started again.
struct RestartPolicy {
  std::chrono::nanoseconds backoff_initial = std::chrono::milliseconds(50);
  std::chrono::nanoseconds backoff_max = std::chrono::seconds(30);
  int max_deaths = 5;  ///< in setup or while idle; more of them within `window`: quarantined
  std::chrono::nanoseconds window = std::chrono::seconds(60);
  /// How long a quarantined replica is left alone before it is tried again; twice as long each time
  /// that fails, up to an hour.
  std::chrono::nanoseconds quarantine = std::chrono::minutes(5);
};

/// Replicas by load, between `min_replicas` (none said: 1) and `max_replicas`. Off by default.
///
/// One of three policies says how many there should be: the thresholds below; a target, if
/// `target_ongoing_requests` is given; your own, if `policy` is. When that is done is the same for
/// all three: within the bounds, not sooner after another change than the times below, and not while
/// too few replicas are healthy. What policies look at is averaged over `look_back`.
/// `forge-bench autoscale` shows what a choice makes of your traffic.
struct Autoscaling {
  bool enabled = false;

  // Thresholds, per healthy replica. More replicas when one of these is exceeded:
  double scale_up_queue_depth = 5;  ///< requests that wait, beyond those that are active
  double scale_up_capacity =
      0.8;  ///< active over replica_max_concurrent_requests; 1 is never exceeded
  /// Requests per second. Only with a queue, of at least `scale_down_queue_depth`.
  double scale_up_request_rate = 10;
  /// From here on cooldowns do not apply, whatever the policy, and thresholds add all that it takes.
  double emergency_queue_depth = 20;
  // Fewer when load has been below both of these for `scale_down_delay`:
  double scale_down_capacity = 0.3;
  double scale_down_queue_depth = 1;
  /// For other policies: they have wanted fewer for so long. To zero: no request for so long.
  std::chrono::nanoseconds scale_down_delay = std::chrono::seconds(300);

  // Times from one change, either way, to the next:
  std::chrono::nanoseconds min_time_between_events = std::chrono::seconds(60);
  std::chrono::nanoseconds scale_up_cooldown = std::chrono::seconds(30);     ///< to one upwards
  std::chrono::nanoseconds scale_down_cooldown = std::chrono::seconds(120);  ///< to one downwards

  int scale_up_step = 1;  ///< replicas that thresholds add or take away at once
  int scale_down_step = 1;
  double min_healthy_ratio = 0.5;  ///< with fewer of them healthy, the number stays; 0 to 1

  /// A target in place of thresholds: so many requests per replica, active and waiting together.
  /// Below what a replica executes at once; a tenth more or less is put up with.
  std::optional<double> target_ongoing_requests = std::nullopt;
  /// Averages are taken over so long, a minute at most: many times what a request takes.
  std::chrono::nanoseconds look_back = std::chrono::seconds(30);
  double upscale_smoothing = 1;    ///< share of the way to the target that is gone at once; over 0
  double downscale_smoothing = 1;  ///< likewise, downwards

  /// In place of both, see <forge/autoscaling.h>. Not taken from a plugin's defaults.
  std::shared_ptr<ScalingPolicy> policy = nullptr;
};

/// How one endpoint is called. Given where it is registered; a service may say otherwise.
struct EndpointOptions {
  std::string router = "round_robin";
  int batch_size = 1;  ///< 1: no batching
  std::chrono::nanoseconds batch_timeout = std::chrono::milliseconds(10);
  bool idempotent = false;  ///< may be executed again after its worker died
  std::optional<std::chrono::nanoseconds> exec_timeout = std::nullopt;
  bool restart_on_error = false;
};

struct Options {
  int procs = 1;  ///< workers per replica
  int num_replicas = 1;
  /// Each worker gets a device, near cores and other ranks where the machine allows: the only one it
  /// sees, as device 0. Without, workers see none, unless `env` sets CUDA_VISIBLE_DEVICES for them.
  bool with_gpus = false;
  std::optional<int> hosts = std::nullopt;  ///< more than one is not supported
  std::chrono::nanoseconds health_poll_rate = std::chrono::milliseconds(200);
  int replica_max_concurrent_requests = 10;
  bool return_first_rank_result = true;
  std::string name = {};  ///< empty: the actor's name
  std::optional<int> min_replicas = std::nullopt;
  std::optional<int> max_replicas = std::nullopt;
  Autoscaling autoscaling = {};
  RestartPolicy restart = {};
  int max_queued_requests = 4096;  ///< per replica
  std::chrono::nanoseconds session_idle_timeout = std::chrono::minutes(10);
  std::map<std::string, std::shared_ptr<Router>> routers = {};      ///< by endpoint name
  std::map<std::string, std::string> env = {};                      ///< of every worker
  std::map<int, std::map<std::string, std::string>> rank_env = {};  ///< by rank, on top of `env`
  std::size_t arena_bytes = std::size_t{64} << 20;  ///< request payloads of the whole service
  Wait wait = Wait::adaptive;
  /// Cores that workers are pinned to, in turn; empty: not pinned, but kept to the cores near their
  /// device if they have one.
  std::vector<int> cpus = {};
  std::chrono::nanoseconds start_timeout = std::chrono::minutes(10);
  int spares = 0;  ///< replicas that are up and idle, and take over for one that dies
  bool gpu_share =
      false;  ///< with_gpus: workers may have one device together, also with others' who say so
  /// By endpoint name, in place of what the plugin registered.
  std::map<std::string, EndpointOptions> endpoints = {};
};

}  // namespace forge
