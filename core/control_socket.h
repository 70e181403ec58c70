// How the `forge` command reaches a running controller: a socket for the same user, and a thread that
// answers there. Whoever connects is not trusted: what he sends is checked, what he does not read is
// dropped, and he with it.
//
// Requests and answers are frames (frames.h). A request has a "command", and an "id" that its answers
// carry: "hello", "services", "stats", "events", "drain", "scale", "trace". An answer has "ok"; the last
// one of a request has "done".
//
// Invariants
//   C1  While nobody is connected the thread sleeps in poll(2) and nothing is done for it anywhere.
//   C2  However many watch, one snapshot is taken and written each period.
//   C3  It waits for nobody: its sockets do not block, and what takes long (drain, scale, trace) has a
//       thread of its own. It takes engines' locks as any caller does, and holds none while it sleeps.
//   C4  A trace is recorded for one who waits for it: if he leaves, it ends.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "core/frames.h"
#include "core/local_socket.h"
#include "core/statistics.h"
#include "core/statistics_segment.h"
#include "shm/file_descriptor.h"
#include "shm/segment.h"

namespace forge::core {

class Host;
class Tracing;

class ControlSocket {
 public:
  /// How often statistics are written while somebody watches.
  static constexpr std::chrono::milliseconds kPeriod{250};

  /// Listens from now on. Throws Unavailable. The host outlives it.
  explicit ControlSocket(Host& host);
  ~ControlSocket();
  /// Says goodbye to all and removes the socket. What it was told to do must have ended, or end by
  /// itself. Idempotent; not on its own thread.
  void stop();

 private:
  struct Events {  // what a client still wants of them
    Json request;
    std::uint64_t seen = 0;
    bool follow = false;
  };
  struct Client {
    std::uint64_t number = 0;
    shm::FileDescriptor fd;
    FrameReader in{kLongestRequest};
    FrameWriter out = {};
    SteadyTime taken{};  // when he last took something of what waits for him
    SteadyTime heard{};  // when he last asked for something, or came
    std::uint64_t asks = 0;
    bool watches = false;
    std::optional<Events> events = {};
    bool gone = false;
  };
  struct Job {  // NOLINT(bugprone-exception-escape): what Json's destructor does throws nothing
    std::uint64_t client = 0;
    Json request;                           // its command and id
    std::function<std::string()> progress;  // for who waits
    std::thread thread = {};
    std::stop_source hurry = {};  // for those that only wait
    std::atomic<bool> wanted{true};
    std::atomic<bool> ended{false};
    // Read once it has ended:
    std::string error = {};
    Json result = Json::object();
    shm::Segment segment = {};
  };

  void run();
  int timeout(SteadyTime now) const;
  void accept_all(SteadyTime now);
  bool make_room(SteadyTime now);
  void read_from(Client& client);
  void handle(Client& client, const Json& request);
  void send_events(Client& client);
  void flush(Client& client, SteadyTime now);
  void show(Client& client, const Json& request);
  void write_statistics(SteadyTime now);
  void begin_drain_or_scale(Client& client, const Json& request);
  void begin_trace(Client& client, const Json& request);
  void record(Job& job, std::shared_ptr<Tracing> tracing, std::chrono::nanoseconds time) const;
  void begin_job(Client& client, const Json& request, const std::string& what,
                 std::function<std::string()> progress, std::function<void(Job&)> work);
  void attend_jobs(SteadyTime now);
  void follow_events();
  std::shared_ptr<Engine> find(const Json& request, std::string& error) const;
  Client* client_of(const Job& job);
  void say_goodbye();

  Host& host_;
  shm::FileDescriptor wakeup_;  // eventfd
  std::atomic<bool> stop_{false};

  // Owned by the thread.
  Listener listener_;
  std::list<Client> clients_;
  std::list<Job> jobs_;
  std::uint64_t last_client_ = 0;
  std::optional<StatisticsWriter> statistics_;
  SteadyTime next_snapshot_{};
  SteadyTime next_progress_{};
  SteadyTime deaf_until_{};  // there is no descriptor left for who wants to connect

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace forge::core
