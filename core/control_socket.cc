#include "core/control_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>

#include "core/fork.h"
#include "core/host.h"
#include "core/text_segment.h"
#include "core/tracing.h"
#include "shm/threads.h"

namespace forge::core {
namespace {

constexpr std::size_t kMostClients = 32;
constexpr std::size_t kMostJobs = 8;
/// Bytes that wait for one who does not read.
constexpr std::size_t kMostWaiting = std::size_t{1} << 20;
/// Who has taken nothing for so long of what waits for him is dropped.
constexpr std::chrono::seconds kPatience{5};
constexpr std::chrono::seconds kDeaf{1};
/// Who has got his answers and asked for no more for so long makes room for others.
constexpr std::chrono::seconds kQuiet{10};
constexpr std::chrono::milliseconds kProgress{500};
constexpr std::chrono::seconds kLongestTrace{600};
constexpr std::size_t kEventsAtOnce = 100;
/// Room to grow, so that a service more does not need another segment at once.
constexpr std::size_t kLeastCapacity = std::size_t{128} * 1024;

/// Numbers only: it is sent back.
Json id_of(const Json& request) {
  const auto id = request.find("id");
  return id != request.end() && id->is_number() ? *id : Json(nullptr);
}

std::string text_of(const Json& request, const char* key) {
  const auto text = request.find(key);
  return text != request.end() && text->is_string() ? text->get<std::string>() : std::string();
}

/// Of a count; -1: there is none.
std::int64_t number_of(const Json& request, const char* key) {
  const auto number = request.find(key);
  if (number == request.end() || !number->is_number_integer()) return -1;
  return std::max<std::int64_t>(-1, number->get<std::int64_t>());
}

Json answer_to(const Json& request, bool done = true) {
  return {{"id", id_of(request)}, {"ok", true}, {"done", done}};
}

Json refusal_of(const Json& request, std::string_view code, const std::string& message) {
  return {{"id", id_of(request)},
          {"ok", false},
          {"done", true},
          {"error", std::string(code)},
          {"message", message}};
}

std::string progress_of(Engine& engine) {
  const Json summary = summary_of(engine);
  return std::to_string(summary["open_calls"].get<std::size_t>()) + " calls open, " +
         std::to_string(summary["healthy"].get<std::size_t>()) + " of " +
         std::to_string(summary["replicas"].get<std::size_t>()) + " replicas up";
}

}  // namespace

ControlSocket::ControlSocket(Host& host)
    : host_(host), wakeup_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wakeup_)
    throw Unavailable("eventfd: the process has no descriptor left; raise its limit (ulimit -n)");
  const auto folder = std::move(make_socket_folder()).value();
  listener_ = std::move(listen_in(folder)).value();
  try {
    thread_ = shm::start_thread("forge-control", {}, [this] { run(); });
  } catch (const Error&) {
    ::unlink(listener_.path.c_str());
    throw;
  }
}

ControlSocket::~ControlSocket() { stop(); }

void ControlSocket::stop() {
  if (!thread_.joinable()) return;
  if (in_forked_child()) {  // the thread was not copied
    thread_.detach();
    return;
  }
  stop_.store(true);
  (void)!::eventfd_write(wakeup_.get(), 1);
  thread_.join();
}

void ControlSocket::run() {
  std::vector<pollfd> events;
  while (!stop_.load()) {
    auto now = SteadyClock::now();
    // Behind its end the list of events has a client of each.
    events.assign(1, {wakeup_.get(), POLLIN, 0});
    events.push_back({now < deaf_until_ ? -1 : listener_.fd.get(), POLLIN, 0});
    for (const Client& client : clients_) {
      const bool waiting = client.out.waiting() != 0;
      events.push_back({client.fd.get(), static_cast<short>(POLLIN | (waiting ? POLLOUT : 0)), 0});
    }
    if (::poll(events.data(), events.size(), timeout(now)) < 0) continue;
    now = SteadyClock::now();
    eventfd_t count = 0;
    if (events[0].revents != 0) (void)!::eventfd_read(wakeup_.get(), &count);
    std::size_t i = 2;
    for (Client& client : clients_) {
      if ((events[i++].revents & ~POLLOUT) != 0) read_from(client);
    }
    if (events[1].revents != 0) accept_all(now);
    attend_jobs(now);
    write_statistics(now);
    follow_events();
    for (Client& client : clients_) flush(client, now);
    clients_.remove_if([](const Client& client) { return client.gone; });
  }
  say_goodbye();
}

/// Milliseconds until there is something to do by the clock; -1: never.
int ControlSocket::timeout(SteadyTime now) const {
  auto until = SteadyTime::max();
  for (const Client& client : clients_) {
    if (client.watches) until = std::min(until, next_snapshot_);
    if (client.out.waiting() != 0) until = std::min(until, client.taken + kPatience);
  }
  if (!jobs_.empty()) until = std::min(until, next_progress_);
  if (now < deaf_until_) until = std::min(until, deaf_until_);
  if (until == SteadyTime::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

void ControlSocket::accept_all(SteadyTime now) {
  for (;;) {
    shm::FileDescriptor fd(
        ::accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
        deaf_until_ = now + kDeaf;  // else we would be called again and again
      return;
    }
    unsigned user = 0;
    int process = 0;
    if (!peer_of(fd.get(), user, process) || user != ::geteuid()) continue;
    if (clients_.size() == kMostClients && !make_room(now)) continue;
    Client& client = clients_.emplace_back();
    client.number = ++last_client_;
    client.fd = std::move(fd);
    client.taken = now;
    client.heard = now;
  }
}

/// By dropping whoever came first of those that have not asked for anything yet, or else has been quiet
/// for the longest time.
bool ControlSocket::make_room(SteadyTime now) {
  const auto rank = [](const Client& client) { return std::pair(client.asks != 0, client.heard); };
  auto least = clients_.end();
  for (auto it = clients_.begin(); it != clients_.end(); ++it) {
    const bool waits =
        it->watches || it->events || it->out.waiting() != 0 ||
        std::ranges::any_of(jobs_, [&](const Job& job) { return job.client == it->number; });
    if (waits || (it->asks != 0 && now - it->heard < kQuiet)) continue;
    if (least == clients_.end() || rank(*it) < rank(*least)) least = it;
  }
  if (least == clients_.end()) return false;
  clients_.erase(least);
  return true;
}

/// Descriptors that come along are dropped by the kernel.
void ControlSocket::read_from(Client& client) {
  char bytes[4096];
  const ssize_t count = ::recv(client.fd.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  client.gone = count <= 0;
  if (client.gone) return;
  client.in.append({bytes, static_cast<std::size_t>(count)});
  try {
    while (!client.gone) {
      const auto frame = client.in.next();
      if (frame && !*frame) return;
      if (!frame) {
        client.gone = true;
      } else {
        client.heard = SteadyClock::now();
        ++client.asks;
        handle(client, **frame);
        client.gone = client.out.waiting() > kMostWaiting;
      }
    }
  } catch (const std::exception&) {  // there was no memory for an answer
    client.gone = true;
  }
}

void ControlSocket::handle(Client& client, const Json& request) {
  const std::string command = text_of(request, "command");
  if (command == "hello") {
    Json answer = answer_to(request);
    answer["controller"] = to_json(host_.identity());
    client.out.push(std::move(answer));
  } else if (command == "services") {
    Json answer = answer_to(request);
    answer["services"] = Json::array();
    for (const auto& engine : host_.services()) answer["services"].push_back(summary_of(*engine));
    client.out.push(std::move(answer));
  } else if (command == "stats") {
    show(client, request);
  } else if (command == "events") {
    const auto follow = request.find("follow");
    const std::uint64_t newest = host_.events().last();
    const std::int64_t count = number_of(request, "last");
    const auto wanted = count < 0 ? newest : std::min<std::uint64_t>(count, newest);
    client.events = Events{request, newest - wanted, follow != request.end() && *follow == true};
    send_events(client);
  } else if (command == "drain" || command == "scale") {
    begin_drain_or_scale(client, request);
  } else if (command == "trace") {
    begin_trace(client, request);
  } else {
    client.out.push(
        refusal_of(request, "unknown_command",
                   "this controller does not know the command '" + command +
                       "'; it knows hello, services, stats, events, drain, scale and trace"));
  }
}

// ---- events

/// The next ones, when he has taken those before: who is slow misses some, and is told how many.
void ControlSocket::send_events(Client& client) {
  Events& events = *client.events;
  if (client.out.waiting() != 0) return;
  const auto found = host_.events().since(events.seen, kEventsAtOnce);
  if (found.empty() && events.follow) return;
  Json answer = answer_to(events.request, false);
  answer["missed"] = found.empty() ? 0 : found.front().number - events.seen - 1;
  answer["events"] = Json::array();
  for (const Event& event : found) answer["events"].push_back(to_json(event));
  if (!found.empty()) events.seen = found.back().number;
  const bool done = !events.follow && found.size() < kEventsAtOnce;
  answer["done"] = done;
  client.out.push(std::move(answer));
  if (done) client.events.reset();
}

void ControlSocket::follow_events() {
  bool anybody = false;
  for (Client& client : clients_) {
    if (!client.events || client.gone) continue;
    send_events(client);
    anybody = anybody || client.events;
  }
  host_.events().set_bell(anybody ? wakeup_.get() : -1);
}

void ControlSocket::flush(Client& client, SteadyTime now) {
  const std::size_t before = client.out.waiting();
  if (client.gone || before == 0) {
    client.taken = now;
    return;
  }
  const auto sent = client.out.flush(client.fd.get());
  if (client.out.waiting() != before) client.taken = now;
  client.gone = sent == FrameWriter::Sent::failed || now - client.taken > kPatience;
  // What has been held back until he had taken this.
  if (sent == FrameWriter::Sent::all && client.events && !client.gone) {
    send_events(client);
    if (client.out.waiting() != 0) (void)client.out.flush(client.fd.get());
  }
}

// ---- statistics

void ControlSocket::show(Client& client, const Json& request) {
  if (client.watches) {
    client.out.push(refusal_of(request, "invalid_argument",
                               "this connection has the statistics already; read them there"));
    return;
  }
  client.watches = true;
  if (!statistics_) write_statistics(SteadyClock::now());
  if (!statistics_) {
    client.watches = false;
    client.out.push(
        refusal_of(request, "unavailable", "the controller has no memory left for statistics"));
    return;
  }
  Json answer = answer_to(request);
  answer["segment"] = true;
  client.out.push(std::move(answer), statistics_->fd());
}

void ControlSocket::write_statistics(SteadyTime now) {
  const auto watching = [](const Client& client) { return client.watches && !client.gone; };
  if (std::none_of(clients_.begin(), clients_.end(), watching)) {
    statistics_.reset();
    return;
  }
  if (statistics_ && now < next_snapshot_) return;
  next_snapshot_ = now + kPeriod;
  try {
    const std::string text = dump(to_json(host_.look()));
    if (statistics_ && statistics_->write(text)) return;
    auto larger = StatisticsWriter::create(std::max(kLeastCapacity, 2 * text.size()),
                                           static_cast<std::uint32_t>(kPeriod.count()));
    if (!larger || !larger->write(text)) return;  // they see that nothing changes any more
    const bool replaced = statistics_.has_value();
    statistics_.emplace(std::move(*larger));
    if (!replaced) return;
    for (Client& client : clients_) {
      if (watching(client)) client.out.push({{"ok", true}, {"segment", true}}, statistics_->fd());
    }
  } catch (const std::exception&) {  // no memory: the next time, perhaps
  }
}

// ---- what takes long

std::shared_ptr<Engine> ControlSocket::find(const Json& request, std::string& error) const {
  const std::string name = text_of(request, "service");
  std::shared_ptr<Engine> found;
  std::string names;
  for (const auto& engine : host_.services()) {
    names += (names.empty() ? "" : ", ") + engine->launch().name;
    if (engine->launch().name != name) continue;
    if (found) {
      error = "there are several services called '" + name + "'; give them different Options::name";
      return nullptr;
    }
    found = engine;
  }
  if (!found) {
    error = "there is no service '" + name +
            "' in this controller; it has: " + (names.empty() ? "none" : names);
  }
  return found;
}

void ControlSocket::begin_drain_or_scale(Client& client, const Json& request) {
  std::string error;
  auto engine = find(request, error);
  const bool scales = text_of(request, "command") == "scale";
  const std::int64_t count = number_of(request, "count");
  if (!engine) {
    client.out.push(refusal_of(request, "unknown_service", error));
    return;
  }
  if (scales && (count < 0 || count > INT32_MAX || engine->launch().mesh)) {
    client.out.push(refusal_of(request, "invalid_argument",
                               engine->launch().mesh
                                   ? "an actor mesh is one replica; only services scale"
                                   : "scale needs a count of replicas"));
    return;
  }
  begin_job(
      client, request, scales ? "scaling to " + std::to_string(count) + " replicas" : "draining",
      [engine] { return progress_of(*engine); },
      [engine, scales, count](Job&) {
        if (scales) {
          engine->scale(static_cast<int>(count));
        } else {
          engine->shutdown(engine->grace());
        }
      });
}

void ControlSocket::begin_trace(Client& client, const Json& request) {
  const auto wanted = request.find("seconds");
  const double seconds = wanted != request.end() && wanted->is_number() ? wanted->get<double>() : 0;
  if (!(seconds > 0) || seconds > kLongestTrace.count()) {
    client.out.push(refusal_of(
        request, "invalid_argument",
        "trace needs a number of seconds, at most " + std::to_string(kLongestTrace.count())));
    return;
  }
  const auto records = [](const Job& job) { return text_of(job.request, "command") == "trace"; };
  if (std::any_of(jobs_.begin(), jobs_.end(), records)) {
    client.out.push(refusal_of(request, "unavailable",
                               "somebody else is recording a trace of this controller; try again "
                               "when that is over"));
    return;
  }
  const auto time =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
  begin_job(
      client, request, "recording", [] { return "recording"; },
      [this, time, tracing = std::shared_ptr<Tracing>(Tracing::begin(host_))](Job& job) mutable {
        record(job, std::move(tracing), time);
      });
}

/// On the job's thread.
void ControlSocket::record(Job& job, std::shared_ptr<Tracing> tracing,
                           std::chrono::nanoseconds time) const {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any nobody;
  nobody.wait_for(lock, job.hurry.get_token(), time, [] { return false; });
  if (!job.wanted.load()) return;
  Trace trace = tracing->end();
  tracing.reset();
  trace.controller = host_.identity().program + " (pid " + std::to_string(::getpid()) + ")";
  const std::string text = render(trace);
  job.segment = share_text("forge:trace", text).value();
  job.result = {{"bytes", text.size()},
                {"requests", trace.spans.size()},
                {"dropped_requests", trace.dropped},
                {"events", trace.events.size()},
                {"missed_events", trace.missed_events}};
}

void ControlSocket::begin_job(Client& client, const Json& request, const std::string& what,
                              std::function<std::string()> progress,
                              std::function<void(Job&)> work) {
  if (jobs_.size() == kMostJobs) {
    client.out.push(refusal_of(request, "backpressure",
                               "the controller is busy with " + std::to_string(kMostJobs) +
                                   " other drains, scalings and traces; try again when one is "
                                   "over"));
    return;
  }
  Job& job = jobs_.emplace_back();
  job.client = client.number;
  job.request = request;
  job.progress = std::move(progress);
  next_progress_ = SteadyClock::now() + kProgress;
  try {
    job.thread = shm::start_thread("forge-job", {}, [this, &job, work = std::move(work)] {
      try {
        work(job);
      } catch (const std::exception& failure) {
        job.error = failure.what();
      }
      job.ended.store(true);
      (void)!::eventfd_write(wakeup_.get(), 1);
    });
  } catch (const Error& failure) {
    jobs_.pop_back();
    client.out.push(refusal_of(request, failure.code(), failure.what()));
    return;
  }
  Json answer = answer_to(request, false);
  answer["progress"] = what;
  client.out.push(std::move(answer));
}

ControlSocket::Client* ControlSocket::client_of(const Job& job) {
  const auto found = std::find_if(clients_.begin(), clients_.end(), [&](const Client& client) {
    return client.number == job.client && !client.gone;
  });
  return found == clients_.end() ? nullptr : &*found;
}

/// Says how they get on, and how they ended.
void ControlSocket::attend_jobs(SteadyTime now) {
  const bool due = now >= next_progress_;
  for (auto next = jobs_.begin(); next != jobs_.end();) {
    Job& job = *next;
    Client* const client = client_of(job);
    if (job.ended.load()) {
      job.thread.join();
      if (client != nullptr) {
        Json answer = job.error.empty() ? answer_to(job.request)
                                        : refusal_of(job.request, "failed", job.error);
        answer.update(job.result);
        client->out.push(std::move(answer), job.segment.fd());
      }
      next = jobs_.erase(next);
      continue;
    }
    if (client == nullptr) {
      job.wanted.store(false);
      job.hurry.request_stop();
    } else if (due) {
      Json answer = answer_to(job.request, false);
      answer["progress"] = job.progress();
      client->out.push(std::move(answer));
    }
    ++next;
  }
  if (due) next_progress_ = now + kProgress;
}

void ControlSocket::say_goodbye() {
  listener_.fd = shm::FileDescriptor();
  ::unlink(listener_.path.c_str());
  for (Job& job : jobs_) {  // their services are down, and nobody waits for time to pass: they end
    job.hurry.request_stop();
    while (!job.ended.load()) {
      pollfd bell{wakeup_.get(), POLLIN, 0};
      (void)::poll(&bell, 1, 100);
      eventfd_t count = 0;
      (void)!::eventfd_read(wakeup_.get(), &count);
    }
  }
  const auto now = SteadyClock::now();
  attend_jobs(now);
  follow_events();
  for (Client& client : clients_) {
    client.out.push({{"ok", true}, {"bye", true}});
    flush(client, now);
  }
  host_.events().set_bell(-1);
  clients_.clear();
  statistics_.reset();
}

}  // namespace forge::core
