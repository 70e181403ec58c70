#include <forge/controller.h>
#include <forge/payload.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <set>
#include <thread>

#include "core/autoscaling_options.h"
#include "core/fork.h"
#include "core/host.h"
#include "core/router_scope.h"
#include "core/utf8.h"
#include "replicas/affinity.h"
#include "replicas/manifest.h"
#include "replicas/plugin_file.h"
#include "replicas/recording.h"
#include "replicas/worker.h"
#include "shm/threads.h"

namespace forge {
namespace {

bool init_was_called = false;

[[noreturn]] void invalid(const std::string& text) { throw InvalidArgument(text); }

void check_cpus(const std::string& who, const std::vector<int>& cpus) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  for (const int cpu : cpus) {
    if (cpu < 0 || cpu >= cores) {
      invalid(who + "cpus names core " + std::to_string(cpu) + "; this machine has 0 to " +
              std::to_string(cores - 1));
    }
  }
}

/// More workers than one host could run; far more is a slip of the hand.
constexpr int kMostWorkers = 4096;

void check_counts(const std::string& who, const Options& options) {
  if (options.procs < 1)
    invalid(who + "procs is " + std::to_string(options.procs) +
            "; a replica has at least one worker");
  if (options.num_replicas < 1)
    invalid(who + "num_replicas is " + std::to_string(options.num_replicas) +
            "; a service has at least one");
  if (const Status status = core::check_autoscaling(who, options); !status.ok())
    throw_status(status);
  const int most = core::replica_bounds(options).max;
  if (options.spares < 0)
    invalid(who + "spares is " + std::to_string(options.spares) + "; it starts at 0");
  if (options.spares > kMostWorkers || most > kMostWorkers ||
      options.procs > kMostWorkers / (most + options.spares)) {
    invalid(who + "procs " + std::to_string(options.procs) +
            " times num_replicas or max_replicas " + std::to_string(most) + " and spares " +
            std::to_string(options.spares) + " is more than " + std::to_string(kMostWorkers) +
            " workers; lower one of them");
  }
  if (options.replica_max_concurrent_requests < 1)
    invalid(who + "replica_max_concurrent_requests must be at least 1");
  if (options.max_queued_requests < 1) invalid(who + "max_queued_requests must be at least 1");
  if (options.arena_bytes < 256 * 1024) {
    invalid(who + "arena_bytes is " + std::to_string(options.arena_bytes) +
            "; the least is 262144");
  }
}

void check_times(const std::string& who, const Options& options) {
  constexpr auto kZero = std::chrono::nanoseconds::zero();
  if (options.start_timeout <= kZero) invalid(who + "start_timeout must be positive");
  if (options.health_poll_rate <= kZero) invalid(who + "health_poll_rate must be positive");
  if (options.session_idle_timeout <= kZero) invalid(who + "session_idle_timeout must be positive");
  const RestartPolicy& restart = options.restart;
  if (restart.backoff_initial < kZero || restart.backoff_max < kZero || restart.window < kZero ||
      restart.max_deaths < 0)
    invalid(who + "restart holds a negative number; times and max_deaths start at zero");
}

void check_variables(const std::string& who, const Options& options) {
  const auto own = [&](const std::string& name) {
    return std::any_of(std::begin(replicas::kDeviceVariables), std::end(replicas::kDeviceVariables),
                       [&](const char* variable) { return name == variable; }) ||
           (options.with_gpus && (name == "CUDA_VISIBLE_DEVICES" || name == "CUDA_DEVICE_ORDER"));
  };
  const auto check = [&](const char* which, const std::map<std::string, std::string>& variables) {
    for (const auto& [name, value] : variables) {
      if (name.empty() || name.find_first_of(std::string_view("=\0", 2)) != std::string::npos ||
          value.find('\0') != std::string::npos) {
        invalid(std::string(who).append(which) + " names the variable '" + name +
                "'; a name is not empty and holds no '=', and nothing holds a zero byte");
      }
      if (own(name)) {
        invalid(std::string(who).append(which) + " sets " + name +
                ", which forge sets for workers with a device; leave it out, and choose devices by "
                "CUDA_VISIBLE_DEVICES of this program");
      }
    }
  };
  check("env", options.env);
  for (const auto& [rank, variables] : options.rank_env) {
    if (rank < 0 || rank >= options.procs) {
      invalid(who + "rank_env names rank " + std::to_string(rank) + "; there are 0 to " +
              std::to_string(options.procs - 1));
    }
    check("rank_env", variables);
  }
}

/// Everything that can be said about options before a process is started.
void check(const Options& options, const std::string& name) {
  if (!core::is_utf8(name)) {
    invalid("service '" + core::valid_utf8(name) +
            "': its name is no UTF-8, which metrics, events and the forge command need; choose "
            "another Options::name");
  }
  const std::string who = "service '" + name + "': ";
  check_counts(who, options);
  check_times(who, options);
  check_variables(who, options);
  check_cpus(who, options.cpus);
  if (options.hosts && *options.hosts < 1)
    invalid(who + "hosts is " + std::to_string(*options.hosts) + "; leave it out");
  if (options.hosts && *options.hosts > 1) {
    throw NotSupported(who + "forge serves one host; for " + std::to_string(*options.hosts) +
                       " hosts run one controller on each and spread calls in your program, or put "
                       "a cluster scheduler such as Ray above them");
  }
}

/// Can a constructor argument of type `given` become `wanted`? Integers may, if their value fits,
/// which the worker checks.
bool converts(const std::string& given, const std::string& wanted) {
  static const std::set<std::string> kIntegers{"i8", "i16", "i32", "i64",
                                               "u8", "u16", "u32", "u64"};
  static const std::set<std::string> kNumbers{"f32", "f64"};
  return given == wanted || (kIntegers.contains(wanted) && kIntegers.contains(given)) ||
         (kNumbers.contains(wanted) && (kNumbers.contains(given) || kIntegers.contains(given)));
}

/// The actor with endpoints as the service wants them.
std::shared_ptr<const replicas::ActorManifest> tailored(const replicas::ActorManifest& actor,
                                                        const Options& options,
                                                        const std::string& service) {
  auto result = std::make_shared<replicas::ActorManifest>(actor);
  const std::string who = "service '" + service + "': ";
  for (const auto& [name, wanted] : options.endpoints) {
    const auto index = result->index_of(name);
    if (!index) {
      throw UnknownEndpoint(std::string(who)
                                .append("options.endpoints names '")
                                .append(name)
                                .append("', which is no endpoint of actor '")
                                .append(actor.name)
                                .append("'"));
    }
    detail::check_options(std::string(who).append("endpoint '").append(name).append("'"), wanted,
                          "correct it in options.endpoints");
    result->endpoints[*index].options = wanted;
  }
  return result;
}

std::shared_ptr<core::Engine> start_to_describe(core::Host& host, core::Launch launch) {
  const std::string plugin = launch.plugin;
  try {
    return host.launch(std::move(launch));
  } catch (const WorkerLost& error) {  // the plugin's own code ran and ended the process
    throw PluginError("'" + plugin + "' ended the worker that opened it: " + error.what());
  }
}

/// Before a worker is started; it looks again at what it opens, unless the program trusts it.
void check_plugin(core::Launch& launch, bool trusted) {
  if (trusted) {
    launch.options.env[replicas::kTrustPlugins] = "1";
  } else if (!launch.plugin.empty()) {
    if (const Status status = replicas::check_plugin_file(launch.plugin); !status.ok())
      throw_status(status);
  }
}

std::string list(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

}  // namespace

std::string_view to_string(LogLevel level) noexcept {
  constexpr std::string_view kNames[] = {"debug", "info", "warning", "error", "off"};
  return kNames[static_cast<int>(level)];
}

std::string_view to_string(ReplicaState state) noexcept {
  constexpr std::string_view kNames[] = {"uninitialized", "healthy",     "recovering",
                                         "unhealthy",     "quarantined", "stopped"};
  return kNames[static_cast<int>(state)];
}

// ---- ActorFactory

ActorFactory::ActorFactory(std::shared_ptr<core::Host> host,
                           std::shared_ptr<const replicas::Manifest> manifest, std::string actor,
                           Options options)
    : host_(std::move(host)),
      manifest_(std::move(manifest)),
      actor_(std::move(actor)),
      options_(std::move(options)) {}

ActorFactory ActorFactory::options(Options options) const {
  return {host_, manifest_, actor_, std::move(options)};
}

detail::Writer& ActorFactory::begin(std::size_t count) const {
  static thread_local detail::Writer writer;
  writer.reset();
  writer.array(static_cast<std::uint32_t>(count));
  return writer;
}

void ActorFactory::finish(detail::Writer& writer, Arguments& arguments) {
  arguments.head_size = writer.head().size();
  arguments.block.resize(writer.block_size());
  writer.write_to(arguments.block.data());
}

std::shared_ptr<core::Engine> ActorFactory::launch(Arguments arguments, bool mesh) const {
  core::require_no_router();
  core::Launch launch;
  launch.name = options_.name.empty() ? actor_ : options_.name;
  check(options_, launch.name);
  const auto& wanted = manifest_->find(actor_)->constructor;
  bool fits = wanted.size() == arguments.types.size();
  for (std::size_t i = 0; fits && i < wanted.size(); ++i)
    fits = converts(arguments.types[i], wanted[i]);
  if (!fits) {
    throw SignatureMismatch("actor '" + actor_ + "' is constructed from (" + list(wanted) +
                            "), but was given (" + list(arguments.types) +
                            "); pass what its registration names");
  }
  launch.plugin = manifest_->plugin;
  launch.actor = actor_;
  launch.options = options_;
  launch.mesh = mesh;
  launch.manifest = tailored(*manifest_->find(actor_), options_, launch.name);
  launch.arguments = std::move(arguments.block);
  launch.arguments_head = arguments.head_size;
  check_plugin(launch, manifest_->trusted);
  return host_->launch(std::move(launch));
}

Future<Service> ActorFactory::launch_async(Arguments arguments) const {
  auto [future, state] = detail::make_promise<Service>();
  // A thread of its own: starting waits for other processes, which no thread of forge may do.
  try {
    shm::start_thread("forge-start", {},
                      [self = *this, arguments = std::move(arguments), state = state]() mutable {
                        state->set(detail::capture(
                            [&] { return Service(self.launch(std::move(arguments), false)); }));
                      })
        .detach();
  } catch (const Error& error) {
    state->set(Result<Service>(error.clone()));
  }
  return std::move(future);
}

// ---- Plugin

Plugin::Plugin(std::shared_ptr<core::Host> host, std::shared_ptr<const replicas::Manifest> manifest)
    : host_(std::move(host)), manifest_(std::move(manifest)) {}

ActorFactory Plugin::actor(std::string_view name) const {
  const auto* actor = manifest_->find(name);
  if (actor == nullptr) {
    throw UnknownActor("plugin '" + (path().empty() ? std::string("(this program)") : path()) +
                       "' has no actor '" + std::string(name) + "'; it has: " + list(actors()));
  }
  return {host_, manifest_, std::string(name), actor->defaults};
}

std::vector<std::string> Plugin::actors() const {
  std::vector<std::string> names;
  for (const auto& actor : manifest_->actors) names.push_back(actor.name);
  return names;
}

const std::string& Plugin::path() const { return manifest_->plugin; }

void Service::update(const Plugin& plugin) const {
  core::require_no_router();
  if (!engine_) throw Stopped("this handle has been moved from; use the one it was moved to");
  const std::string& name = engine_->launch().actor;
  const auto* const actor = plugin.manifest_->find(name);
  if (actor == nullptr) {
    throw UnknownActor("service '" + engine_->launch().name + "' cannot be updated to '" +
                       plugin.path() + "': it has no actor '" + name +
                       "'; it has: " + list(plugin.actors()));
  }
  if (!plugin.manifest_->trusted && !plugin.path().empty()) {
    if (const Status status = replicas::check_plugin_file(plugin.path()); !status.ok())
      throw_status(status);
  }
  engine_->update(plugin.path(), *actor);
}

// ---- Controller

Controller::Controller(ControllerOptions options)
    : trust_plugins_(options.trust_plugins || replicas::environment_trusts_plugins()) {
  check_cpus("ControllerOptions: ", options.cpus);
  if (!core::is_utf8(options.name))
    invalid("ControllerOptions: name '" + core::valid_utf8(options.name) +
            "' is no UTF-8; choose another");
  host_ = core::Host::create(std::move(options));
}

Controller::~Controller() {
  if (!core::leaked_in_fork(host_)) host_->close();
}

void Controller::shutdown() {
  core::require_no_router();
  host_->close();
}

std::string Controller::metrics_address() const { return host_->metrics_address(); }

Plugin Controller::load(const std::string& path) {
  if (path.empty())
    throw PluginError(
        "load() needs the path of a plugin; for actors linked into this program use self()");
  std::error_code error;
  const auto absolute = std::filesystem::absolute(path, error);
  core::Launch launch;
  launch.name = "describe " + absolute.filename().string();
  launch.plugin = absolute.string();
  return describe(std::move(launch));
}

Plugin Controller::self() {
  if (!init_was_called) {
    throw InvalidArgument(
        "controller.self() needs forge::init(argc, argv) first in main: workers are this same "
        "program, started again");
  }
  core::Launch launch;
  launch.name = "describe this program";
  return describe(std::move(launch));
}

Plugin Controller::describe(core::Launch launch) {
  core::require_no_router();
  launch.options.arena_bytes = 256 * 1024;
  launch.options.wait = Wait::block;
  launch.options.start_timeout = std::chrono::minutes(1);
  check_plugin(launch, trust_plugins_);
  auto engine = start_to_describe(*host_, std::move(launch));
  const auto bytes = engine->description();
  engine->shutdown(std::chrono::seconds(1));
  detail::Reader reader{std::span<const std::byte>(bytes)};
  auto manifest = std::make_shared<replicas::Manifest>(replicas::decode_manifest(reader));
  manifest->trusted = trust_plugins_;
  return Plugin(host_, std::move(manifest));
}

void Controller::register_router(const std::string& name,
                                 std::function<std::shared_ptr<Router>()> factory) {
  core::require_no_router();
  host_->register_router(name, std::move(factory));
}

void Controller::on_actor_failure(std::function<void(const ActorFailure&)> callback) {
  core::require_no_router();
  host_->set_actor_failure_callback(std::move(callback));
}

void init(int argc, char** argv) {
  if (replicas::wants_worker(argc, argv)) {
    std::exit(replicas::run_worker(argc, argv));  // NOLINT(concurrency-mt-unsafe): no thread yet
  }
  if (replicas::wants_replay(argc, argv)) {
    std::exit(replicas::run_replay(argv[2]));  // NOLINT(concurrency-mt-unsafe): no thread yet
  }
  init_was_called = true;
}

}  // namespace forge
