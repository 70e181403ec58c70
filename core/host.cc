#include "core/host.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/fork.h"
#include "replicas/flight.h"
#include "replicas/worker.h"
#include "shm/module.h"
#include "shm/threads.h"

extern char** environ;

namespace forge::core {
namespace {

namespace fs = std::filesystem;

/// Recordings a controller keeps: enough to find a bug, too few to fill a disk.
constexpr int kMostKept = 16;
/// And all controllers of this user together, of each kind.
constexpr std::size_t kMostFiles = 128;

/// Removes the oldest files of one kind, so that another may come.
void prune(const fs::path& folder, const std::string& suffix) {
  std::error_code none;
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  for (fs::directory_iterator it(folder, none), end; it != end; it.increment(none)) {
    if (it->path().extension() == suffix) files.emplace_back(it->last_write_time(none), it->path());
  }
  std::sort(files.begin(), files.end());
  for (std::size_t i = 0; i + kMostFiles <= files.size(); ++i) fs::remove(files[i].second, none);
}

/// A folder for this user alone; empty if somebody else has that name. Made if it is not there.
bool make_private(const fs::path& folder) {
  std::error_code ignored;
  fs::create_directories(folder.parent_path(), ignored);
  ::mkdir(folder.c_str(), 0700);
  struct stat found {};
  return ::lstat(folder.c_str(), &found) == 0 && S_ISDIR(found.st_mode) &&
         found.st_uid == ::geteuid() && (found.st_mode & 022) == 0;
}

constexpr const char* kNotKept = "what a death left could not be kept: ";

Status write_into(const fs::path& folder, const std::string& path, const char* suffix,
                  const std::function<Status(const std::string& path)>& write) {
  try {
    prune(folder, suffix);
    if (make_private(folder)) return write(path);
    return {ErrorCode::unavailable,
            "'" + folder.string() + "' is no folder that this user alone can write"};
  } catch (const std::exception& error) {
    return {ErrorCode::unavailable, error.what()};
  }
}

std::map<std::string, std::string> copy_of_environment() {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const auto equals = text.find('=');
    if (equals != std::string_view::npos)
      variables[std::string(text.substr(0, equals))] = text.substr(equals + 1);
  }
  return variables;
}

/// From a factory that may be the user's; `who` begins what is said about it.
std::shared_ptr<Router> make_router(const RouterFactory& factory, const std::string& who) {
  std::shared_ptr<Router> router;
  try {
    router = factory();
  } catch (const Error& error) {  // keeps its class
    throw_status({error.error_code(), who + error.what()});
  } catch (const std::exception& error) {
    throw InvalidArgument(who + "its factory threw: " + error.what());
  } catch (...) {
    throw InvalidArgument(who + "its factory threw something that is no exception");
  }
  if (!router) throw InvalidArgument(who + "its factory gave none");
  return router;
}

bool executable(const fs::path& path) { return ::access(path.c_str(), X_OK) == 0; }

struct Hosts {
  std::mutex mutex;
  std::vector<std::weak_ptr<Host>> all;  // under mutex
};
Hosts& hosts() {
  static Hosts living;
  return living;
}

}  // namespace

void Keeping::begin() {
  const std::lock_guard lock(mutex_);
  ++open_;
}

void Keeping::end() {
  const std::lock_guard lock(mutex_);
  --open_;
  changed_.notify_all();
}

void Keeping::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kLongest, [&] { return open_ == 0; });
}

std::shared_ptr<Host> Host::create(ControllerOptions options) {
  watch_forks();
  auto host = std::make_shared<Host>(std::move(options));
  const std::lock_guard lock(hosts().mutex);
  std::erase_if(hosts().all, [](const auto& other) { return other.expired(); });
  hosts().all.push_back(host);
  return host;
}

std::shared_ptr<Host> Host::any() {
  const std::lock_guard lock(hosts().mutex);
  for (const auto& host : hosts().all) {
    if (auto found = host.lock()) return found;
  }
  return nullptr;
}

Host::Host(ControllerOptions options)
    : options_(std::move(options)),
      environment_(copy_of_environment()),
      keep_folder_(options_.poison_dir.empty() ? replicas::default_keep_folder()
                                               : options_.poison_dir),
      identity_(Identity::of_this_program(options_.name)),
      callbacks_(CallbackThread::acquire()),
      routers_{{"round_robin", [] { return std::make_shared<RoundRobinRouter>(); }},
               {"least_loaded", [] { return std::make_shared<LeastLoadedRouter>(); }},
               {"power_of_two_choices", [] { return std::make_shared<PowerOfTwoRouter>(); }},
               {"hash", [] { return std::make_shared<HashRouter>(); }}},
      log_(options_.log_level, options_.on_log),
      engine_thread_(options_.cpus) {
  if (!options_.metrics_address.empty()) {
    exporter_ =
        std::move(export_metrics(options_.metrics_address, [this] { return look(); })).value();
    metrics_address_ = exporter_->address();
  }
  if (!options_.observable) return;
  try {
    control_ = std::make_unique<ControlSocket>(*this);
  } catch (const Error& error) {  // serving does not depend on it
    log(LogLevel::warning, std::string("the forge command cannot find this controller: ") +
                               error.what() + "; or set ControllerOptions::observable = false");
  }
}

std::shared_ptr<Engine> Host::launch(Launch launch) {
  require_no_fork();
  launch.worker_path = worker_path(launch.plugin);
  auto engine = std::move(Engine::create(shared_from_this(), std::move(launch))).value();
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw Stopped("the controller has been shut down; make a new one");
    engines_.push_back(engine);
    if (recorder_ && !engine->launch().actor.empty()) engine->trace_to(recorder_);
  }
  Status status;
  try {
    status = engine->start();
  } catch (...) {
    engine->shutdown(std::chrono::nanoseconds::zero());
    throw;
  }
  if (!status.ok()) {
    engine->shutdown(
        std::chrono::nanoseconds::zero());  // some has been begun, however early it was
    if (!engine->launch().actor.empty())
      event({LogLevel::debug, "failed", engine->launch().name, -1, status.message});
    throw_status(status);
  }
  if (const auto& started = engine->launch(); !started.actor.empty()) {
    event({LogLevel::debug, "started", started.name, -1,
           "service '" + started.name + "': " + std::to_string(engine->replicas().size()) +
               " replicas of " + started.actor + " serve"});
  }
  return engine;
}

std::vector<std::shared_ptr<Engine>> Host::services() {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Engine>> found;
  for (const auto& engine : engines_) {
    if (!engine->launch().actor.empty()) found.push_back(engine);
  }
  return found;
}

void Host::trace_to(const std::shared_ptr<TraceRecorder>& recorder) {
  const std::lock_guard lock(mutex_);
  recorder_ = recorder;
  for (const auto& engine : engines_) {
    if (!engine->launch().actor.empty()) engine->trace_to(recorder);
  }
}

void Host::forget(const Engine* engine) {
  const std::lock_guard lock(mutex_);
  std::erase_if(engines_, [&](const auto& other) { return other.get() == engine; });
}

void Host::close() {
  if (in_forked_child()) return;
  const std::lock_guard closing(close_mutex_);
  std::vector<std::shared_ptr<Engine>> engines;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    engines = engines_;
  }
  for (const auto& engine : engines) engine->shutdown(options_.shutdown_grace);
  if (control_) control_->stop();
  exporter_.reset();
  keeping_->wait();
  // Whoever drops the last reference to us, on whatever thread, finds nothing left to wait for.
  watchdog_.stop();
  engine_thread_.stop();
  output_.stop();
  for (std::string& line : unheard_.rest())
    event({LogLevel::error, "unheard", {}, -1, std::move(line)});
  log_.close();
}

std::string Host::keep(replicas::Recording recording) {
  const std::string request = recording.request;
  return keep(kept_, request, ".forge",
              [recording = std::move(recording)](const std::string& path) {
                return replicas::save(recording, path);
              });
}

std::string Host::keep_report(const std::string& worker, const std::string& text) {
  return keep(reported_, worker, ".crash", [text](const std::string& path) {
    std::ofstream out(path);
    out << text << "\n";
    return out.flush() ? Status{}
                       : Status{ErrorCode::unavailable, "'" + path + "' cannot be written"};
  });
}

std::string Host::keep(std::atomic<int>& kept, std::string name, const char* suffix,
                       std::function<Status(const std::string& path)> write) {
  const int number = kept.fetch_add(1, std::memory_order_relaxed);
  if (number >= kMostKept) return {};
  const fs::path folder = keep_folder_;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '_') c = '-';
  }
  std::string path = folder / (name + "-" + std::to_string(::getpid()) + "-" +
                               std::to_string(number + 1) + suffix);
  // A file system may hang, and the watchdog has others to look after.
  keeping_->begin();
  try {
    shm::start_thread("forge-keep", {},
                      [weak = weak_from_this(), keeping = keeping_, folder, path, suffix,
                       write = std::move(write)] {
                        const Status status = write_into(folder, path, suffix, write);
                        const auto self = weak.lock();
                        if (self && !status.ok())
                          self->log(LogLevel::error, kNotKept + status.message);
                        keeping->end();
                      })
        .detach();
  } catch (const Error& error) {
    keeping_->end();
    log(LogLevel::error, std::string(kNotKept) + error.what());
    return {};
  }
  return path;
}

std::string Host::worker_path(const std::string& plugin) const {
  if (plugin.empty()) return "/proc/self/exe";  // linked-in actors live in this program
  if (!options_.worker_path.empty()) {
    if (!executable(options_.worker_path))
      throw PluginError("worker_path '" + options_.worker_path + "' is not an executable file");
    return options_.worker_path;
  }
  const fs::path folder = shm::library_folder();
  for (const char* place :
       {"forge-worker", "../bin/forge-worker", "../libexec/forge/forge-worker"}) {
    if (executable(folder / place)) return (folder / place).lexically_normal();
  }
  const auto named = environment_.find("FORGE_WORKER");
  if (named != environment_.end() && executable(named->second)) return named->second;
  throw PluginError("there is no forge-worker beside " + folder.string() +
                    " nor in $FORGE_WORKER; install forge, or set ControllerOptions::worker_path");
}

void Host::log(LogLevel level, const std::string& text) { event({level, "log", {}, -1, text}); }

void Host::event(Event event) {
  const LogLevel level = event.level;
  std::string text = event.text;
  events_.add(std::move(event));
  log_(level, text);
}

void Host::call(const char* what, const std::function<void()>& callback) noexcept {
  const auto outcome = detail::capture(callback);
  if (!outcome) unheard(what, outcome.error());
}

void Host::unheard(const std::string& who, const Error& error) noexcept {
  try {
    if (const auto line = unheard_.add(who, error, SteadyClock::now()))
      event({LogLevel::error, "unheard", {}, -1, *line});
  } catch (...) {  // there was no memory for it
  }
}

void Host::set_actor_failure_callback(std::function<void(const ActorFailure&)> callback) {
  const std::lock_guard lock(mutex_);
  on_failure_ = std::move(callback);
}

void Host::report_actor_failure(ActorFailure failure) {
  CallbackThread::post([self = shared_from_this(), failure = std::move(failure)] {
    std::function<void(const ActorFailure&)> callback;
    {
      const std::lock_guard lock(self->mutex_);
      callback = self->on_failure_;
    }
    if (callback) {
      self->call("on_actor_failure", [&] { callback(failure); });
    } else {
      self->log(LogLevel::error, "actor mesh '" + failure.mesh + "': " + failure.reason +
                                     "; set controller.on_actor_failure to stop the job");
    }
  });
}

void Host::register_router(const std::string& name, RouterFactory factory) {
  if (name.empty() || !factory) throw InvalidArgument("register_router needs a name and a factory");
  const std::lock_guard lock(mutex_);
  if (!routers_.emplace(name, std::move(factory)).second) {
    throw InvalidArgument("there is a router '" + name + "' already; choose another name");
  }
}

std::vector<std::shared_ptr<Router>> Host::make_routers(const replicas::ActorManifest& actor,
                                                        const Options& options) {
  for (const auto& [name, router] : options.routers) {
    if (!router || !actor.index_of(name)) {
      throw UnknownEndpoint("options.routers names '" + name +
                            "', which is no endpoint of actor '" + actor.name +
                            "', or holds no router");
    }
  }
  std::unique_lock lock(mutex_);
  const auto factories = routers_;
  lock.unlock();  // factories may be the user's
  std::vector<std::shared_ptr<Router>> routers;
  for (const auto& endpoint : actor.endpoints) {
    if (const auto own = options.routers.find(endpoint.name); own != options.routers.end()) {
      routers.push_back(own->second);
      continue;
    }
    const std::string& wanted = endpoint.options.router;
    const std::string who = "endpoint '" + endpoint.name + "' of actor '" + actor.name + "' ";
    const auto known = factories.find(wanted);
    if (known == factories.end()) {
      std::string text = who;
      text.append("wants router '").append(wanted).append("'; there are ");
      const char* separator = "";
      for (const auto& [name, factory] : factories) {
        text.append(separator).append(name);
        separator = ", ";
      }
      throw InvalidArgument(text.append("; register yours with controller.register_router()"));
    }
    std::string refused = who;
    refused.append("cannot have router '").append(wanted).append("': ");
    routers.push_back(make_router(known->second, refused));
  }
  return routers;
}

}  // namespace forge::core
