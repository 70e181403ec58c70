// Controller: the embedding program's end of forge. Loads plugins, starts services and meshes, owns
// the threads behind them.
#pragma once

#include <forge/service.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace forge {

namespace core {
class Host;
struct Launch;
}  // namespace core
namespace replicas {
struct Manifest;
}

enum class LogLevel { debug, info, warning, error, off };
std::string_view to_string(LogLevel level) noexcept;

struct ControllerOptions {
  std::string name = {};
  std::string worker_path = {};  ///< empty: beside the library, else $FORGE_WORKER
  std::optional<std::chrono::nanoseconds> default_timeout =
      std::nullopt;  ///< of calls that name none, with the meaning of CallOptions::timeout
  std::chrono::nanoseconds shutdown_grace = std::chrono::seconds(10);
  /// Where requests that killed workers are kept, to be run again by `forge replay`; empty:
  /// forge-<user id> in the folder for temporary files. Only this user can read them.
  std::string poison_dir = {};
  std::vector<int> cpus = {};              ///< cores for forge's own threads; empty: anywhere
  LogLevel log_level = LogLevel::warning;  ///< FORGE_LOG in the environment, if set, overrides it
  /// Takes forge's own lines, one at a time, on a thread of its own and under no lock: it may call
  /// anything. Lines that it does not take in time are dropped and counted; shutdown() waits for it as
  /// long as it takes one within a second, five in all. What it throws is told on standard error.
  /// Empty: standard error, likewise.
  std::function<void(LogLevel, std::string_view)> on_log = {};
  /// Load plugins that other users could change, too. Likewise FORGE_TRUST_PLUGINS in the
  /// environment.
  bool trust_plugins = false;
  /// The `forge` command of the same user finds this controller, through a socket in the user's runtime
  /// folder: forge ps, top, stats, events, trace, drain, scale. Nothing happens for it while nobody looks.
  bool observable = true;
  /// Where Prometheus finds metrics, as http://<address>/metrics: a port, or an IP address and a port
  /// ("9464", "10.0.0.7:9464", "[::1]:9464"). Without an address it is this machine only, 127.0.0.1; port
  /// 0 is any that is free. Whoever can connect can read. Empty: nowhere.
  std::string metrics_address = {};
};

/// What on_actor_failure hears about.
struct ActorFailure {
  std::string mesh;
  int rank = 0;
  std::string reason;  ///< how the worker ended
};

/// An actor of a plugin, with the options it will run under.
class ActorFactory {
 public:
  ActorFactory(std::shared_ptr<core::Host> host, std::shared_ptr<const replicas::Manifest> manifest,
               std::string actor, Options options);

  /// Replaces all options, the class's own defaults included.
  ActorFactory options(Options options) const;

  /// Starts the replicas and returns when every one is up. Throws what kept them from it, after
  /// cleaning up: InvalidArgument, SignatureMismatch, NotSupported, InsufficientGpus, PluginError,
  /// ActorError, WorkerLost, DeadlineExceeded, Unavailable.
  template <class... Args>
  Service as_service(const Args&... args) const {
    return Service(launch(encode(args...), false));
  }
  template <class... Args>
  Future<Service> as_service_async(const Args&... args) const {
    return launch_async(encode(args...));
  }
  /// Starts one replica for direct use.
  template <class... Args>
  ActorMesh as_actor(const Args&... args) const {
    return ActorMesh(launch(encode(args...), true));
  }

 private:
  /// Constructor arguments: what each is, and all of them encoded.
  struct Arguments {
    std::vector<std::string> types;
    std::vector<std::byte> block;  ///< head and out-of-band bytes
    std::size_t head_size = 0;
  };

  template <class... Args>
  Arguments encode(const Args&... args) const {
    Arguments result;
    (add_type<typename Storable<Args>::type>(result.types), ...);
    detail::Writer& writer = begin(sizeof...(Args));
    (put<typename Storable<Args>::type>(writer, args), ...);
    finish(writer, result);
    return result;
  }
  /// String literals travel as strings.
  template <class T>
  struct Storable {
    using type = std::conditional_t<std::is_convertible_v<const T&, std::string_view>, std::string,
                                    std::remove_cvref_t<T>>;
  };
  /// Text of any kind is encoded as what it will be, everything else as it is.
  template <class T, class Arg>
  static void put(detail::Writer& writer, const Arg& arg) {
    if constexpr (std::is_same_v<T, Arg>) {
      detail::Codec<T>::encode(writer, arg);
    } else {
      writer.string(std::string_view(arg));
    }
  }
  template <class T>
  static void add_type(std::vector<std::string>& types) {
    types.emplace_back();
    detail::Codec<T>::type(types.back());
  }

  detail::Writer& begin(std::size_t count) const;
  static void finish(detail::Writer& writer, Arguments& arguments);
  std::shared_ptr<core::Engine> launch(Arguments arguments, bool mesh) const;
  Future<Service> launch_async(Arguments arguments) const;

  std::shared_ptr<core::Host> host_;
  std::shared_ptr<const replicas::Manifest> manifest_;
  std::string actor_;
  Options options_;
};

/// A plugin that a worker process has opened and described. This process never opens it.
class Plugin {
 public:
  Plugin(std::shared_ptr<core::Host> host, std::shared_ptr<const replicas::Manifest> manifest);
  /// Throws UnknownActor, naming those there are.
  ActorFactory actor(std::string_view name) const;
  std::vector<std::string> actors() const;
  const std::string& path() const;

 private:
  friend void Service::update(const Plugin&) const;
  std::shared_ptr<core::Host> host_;
  std::shared_ptr<const replicas::Manifest> manifest_;
};

/// Any thread may call anything. Destroying it shuts all its services down.
class Controller {
 public:
  /// The environment is looked at here and never again: later changes reach neither forge nor workers;
  /// what those need is for Options::env.
  /// Throws Unavailable when threads cannot be started or metrics_address is in use, InvalidArgument
  /// when it is no address, NotSupported when this forge was built without metrics over HTTP.
  explicit Controller(ControllerOptions options = {});
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;
  ~Controller();

  /// Has a worker open and describe the plugin. Throws PluginError with what was wrong, among that:
  /// the file or its folder belongs to, or can be written by, another user than this one and root.
  Plugin load(const std::string& path);
  /// The actors linked into this program. Needs forge::init() first in main.
  Plugin self();

  /// Makes a router of yours known to plugins by name: endpoints of services started later that say
  /// `.router = name` get one each from `factory`, called under no lock by whoever starts the service;
  /// if it throws or gives none, that throws InvalidArgument. Throws InvalidArgument if the name is
  /// taken.
  void register_router(const std::string& name, std::function<std::shared_ptr<Router>()> factory);

  /// Called on the callback thread when a rank of an actor mesh died. What it throws is logged.
  void on_actor_failure(std::function<void(const ActorFailure&)> callback);

  /// Where metrics are served, "127.0.0.1:9464"; empty: nowhere.
  std::string metrics_address() const;

  /// Shuts every service and mesh down.
  void shutdown();

 private:
  Plugin describe(core::Launch launch);
  bool trust_plugins_;
  std::shared_ptr<core::Host> host_;
};

/// First thing in main of a program whose own actors are to be served: in a worker process it runs
/// the worker and does not return.
void init(int argc, char** argv);

}  // namespace forge
