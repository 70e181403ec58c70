// What a controller consists of: its threads, its settings, and the engines it has started.
#pragma once

#include <forge/controller.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/callback_thread.h"
#include "core/control_socket.h"
#include "core/device_desk.h"
#include "core/engine.h"
#include "core/engine_thread.h"
#include "core/event_log.h"
#include "core/log.h"
#include "core/metrics_exporter.h"
#include "core/output.h"
#include "core/unheard.h"
#include "replicas/recording.h"
#include "replicas/spawner.h"

namespace forge::core {

using RouterFactory = std::function<std::shared_ptr<Router>()>;

/// Files that are being written, each by a thread of its own.
class Keeping {
 public:
  static constexpr std::chrono::seconds kLongest{5};
  void begin();
  void end();
  /// Until all have been written, or for so long.
  void wait();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int open_ = 0;  // under mutex_
};

/// Any thread. Kept alive by services, plugins and endpoints; closed by ~Controller.
class Host : public std::enable_shared_from_this<Host> {
 public:
  static std::shared_ptr<Host> create(ControllerOptions options);
  explicit Host(ControllerOptions options);

  /// Starts an engine and waits for it. Throws.
  std::shared_ptr<Engine> launch(Launch launch);
  void forget(const Engine* engine);
  /// Shuts all engines down and stops the threads.
  void close();

  replicas::Spawner& watchdog() { return watchdog_; }
  EngineThread& engine_thread() { return engine_thread_; }
  Output& output() { return output_; }
  DeviceDesk& devices() { return *devices_; }
  std::optional<std::chrono::nanoseconds> default_timeout() const {
    return options_.default_timeout;
  }
  std::chrono::nanoseconds shutdown_grace() const { return options_.shutdown_grace; }
  /// This program's, as it was when the controller was made. Threads of forge look at no other: the
  /// program may change its own at any time, which is not safe beside a getenv().
  const std::map<std::string, std::string>& environment() const { return environment_; }
  /// The program that runs workers of this plugin ("": linked-in actors). Throws PluginError.
  std::string worker_path(const std::string& plugin) const;
  void log(LogLevel level, const std::string& text);
  /// log(), and kept for those who look in (`forge events`).
  void event(Event event);
  EventLog& events() { return events_; }
  /// All but those that only describe a plugin.
  std::vector<std::shared_ptr<Engine>> services();
  const Identity& identity() const { return identity_; }
  /// Takes the locks of all engines, one after the other.
  ControllerView look() { return look_at(identity_, services()); }
  /// Where metrics are served, "address:port"; empty: nowhere.
  const std::string& metrics_address() const { return metrics_address_; }

  /// All services tell this recorder of their requests, also those that are started later; null: none.
  void trace_to(const std::shared_ptr<TraceRecorder>& recorder);

  /// Writes the recording, later, where the text says; empty: enough have been kept already.
  std::string keep(replicas::Recording recording);
  /// The same with the text of a crash, for `forge postmortem`.
  std::string keep_report(const std::string& worker, const std::string& text);

  void register_router(const std::string& name, RouterFactory factory);
  /// One router per endpoint, as its options or the service's say. Throws if one is unknown.
  std::vector<std::shared_ptr<Router>> make_routers(const replicas::ActorManifest& actor,
                                                    const Options& options);

  /// Calls something of the program's, under no lock. What it throws is logged and counted.
  void call(const char* what, const std::function<void()>& callback) noexcept;
  /// An error of a callback, or of a future, that nobody receives.
  void unheard(const std::string& who, const Error& error) noexcept;
  /// A controller that lives, whichever; null: none does.
  static std::shared_ptr<Host> any();

  void set_actor_failure_callback(std::function<void(const ActorFailure&)> callback);
  void report_actor_failure(ActorFailure failure);

 private:
  std::string keep(std::atomic<int>& kept, std::string name, const char* suffix,
                   std::function<Status(const std::string& path)> write);

  const ControllerOptions options_;
  const std::map<std::string, std::string> environment_;
  const std::string keep_folder_;  // what deaths leave
  const Identity identity_;
  const std::shared_ptr<CallbackThread> callbacks_;
  const std::shared_ptr<DeviceDesk> devices_ = DeviceDesk::acquire();
  std::mutex close_mutex_;  // before mutex_
  std::mutex mutex_;
  bool closed_ = false;                                  // under mutex_
  std::vector<std::shared_ptr<Engine>> engines_;         // under mutex_
  std::shared_ptr<TraceRecorder> recorder_;              // under mutex_
  std::function<void(const ActorFailure&)> on_failure_;  // under mutex_
  std::map<std::string, RouterFactory> routers_;         // under mutex_

  const Log log_;
  EventLog events_;
  UnheardErrors unheard_;
  const std::shared_ptr<Keeping> keeping_ = std::make_shared<Keeping>();
  std::atomic<int> kept_{0};
  std::atomic<int> reported_{0};
  Output output_;
  replicas::Spawner watchdog_;
  EngineThread engine_thread_;
  // Null: nobody can look in. Last: they use all of the above.
  std::unique_ptr<ControlSocket> control_;
  std::unique_ptr<MetricsExporter> exporter_;
  std::string metrics_address_;  // constant once this is constructed
};

}  // namespace forge::core
