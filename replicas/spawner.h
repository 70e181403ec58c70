// The watchdog thread: starts workers, sees them die, runs timers. One for each controller, permanent,
// because a worker dies with the thread that started it.
//
// post() and stop() may be called from any thread. Everything else belongs to the watchdog thread:
// call it from a posted job or from a callback. So what a job touches needs no lock of its own.
//
// Invariants
//   S1  a job that post() accepted runs, also when stop() is called meanwhile; jobs run in order.
//   S2  each started process gets on_exit exactly once, after it has been reaped and its whole process
//       group killed. The one exception: it is still stuck when stop() gives up on it.
//   S3  callbacks run on the watchdog thread, one at a time, with no lock held. An exception that
//       leaves one ends the program.
//
// fork(): the thread does not exist in a forked copy of the program; there post() refuses and stop() does
// nothing. The copy's owner leaks its Spawner: the thread may have been changing it when it was copied.
// A copy keeps our descriptors open; nothing here depends on the last of them closing.
#pragma once

#include <sys/types.h>

#include <forge/result.h>
#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "replicas/process.h"
#include "shm/file_descriptor.h"

namespace forge::replicas {

using SteadyTime = std::chrono::steady_clock::time_point;

/// Names a started process; harmless after its end, as `id` is never used again.
struct Process {
  std::uint64_t id = 0;
  pid_t pid = -1;
};

struct ProcessCallbacks {
  std::function<void(const ExitInfo&)> on_exit;
  /// It outlived a SIGKILL by `stuck_after` (it sits in a driver, say). Called once; on_exit still follows.
  std::function<void()> on_stuck = {};
};

struct SpawnerOptions {
  std::chrono::milliseconds stuck_after{10'000};
};

class Spawner {
 public:
  using Job = std::function<void()>;

  /// Names a timer. {} names none.
  struct Timer {
    SteadyTime when{};
    std::uint64_t id = 0;
    explicit operator bool() const { return id != 0; }
    friend auto operator<=>(const Timer&, const Timer&) = default;
  };

  /// Throws Unavailable if the system has no descriptor or thread left.
  explicit Spawner(SpawnerOptions options = {});
  Spawner(const Spawner&) = delete;
  Spawner& operator=(const Spawner&) = delete;
  ~Spawner() { stop(); }

  /// Any thread. Runs `job` on the watchdog thread; false, and `job` is dropped, after stop().
  bool post(Job job);

  /// Any thread but the watchdog. Runs the accepted jobs, drops the timers, kills and reaps what still
  /// lives (on_exit is called), ends the thread. Takes at most `stuck_after` for stuck processes.
  void stop();

  bool on_thread() const;

  /// Starts a process and watches it. Stopped after stop().
  Result<Process> spawn(const SpawnSpec& spec, ProcessCallbacks callbacks);

  /// SIGKILL to it and its process group. False if it has ended already.
  bool kill(const Process& process);

  /// Has a signal stopped it? False if it has ended.
  bool is_stopped(const Process& process) const;

  /// Any other signal, to the process alone. False if it has ended already.
  bool send_signal(const Process& process, int signal);

  /// Runs `job` at `when` or soon after (milliseconds), never before. {} after stop().
  Timer at(SteadyTime when, Job job);
  /// False if it ran already, is running, or names none.
  bool cancel(const Timer& timer);

  /// Processes started and not reaped.
  std::size_t living() const { return processes_.size(); }

 private:
  struct Watched {
    Child child;
    ProcessCallbacks callbacks;
    Timer stuck{};          // set while it is expected to die of a SIGKILL
    bool reported = false;  // on_stuck was called
    bool held = false;  // dead, but a debugger keeps us from reaping it; collect() runs by timer
  };
  using Processes = std::map<std::uint64_t, Watched>;

  void run();
  void run_jobs();
  void run_due_timers();
  void wait_for_events();
  void close_down();
  void collect(std::uint64_t id);
  /// For a process without a pidfd: collects it once it has ended.
  void look_at(std::uint64_t id, std::chrono::milliseconds delay);
  void report_stuck(std::uint64_t id);
  Watched forget(Processes::iterator it);
  Timer add_timer(SteadyTime when, Job job);
  void wake();
  void require_thread(bool watchdog, const char* function) const;

  const SpawnerOptions options_;
  const pid_t owner_;  // the program that made us, not a forked copy
  shm::FileDescriptor epoll_;
  shm::FileDescriptor wakeup_;  // eventfd, level-triggered

  std::mutex mutex_;  // guards these two; a leaf
  std::vector<Job> jobs_;
  bool accepting_ = true;

  // Owned by the watchdog thread.
  Processes processes_;
  std::map<Timer, Job> timers_;
  std::uint64_t last_id_ = 0;  // of processes and timers
  bool closing_ = false;       // the last jobs have been taken
  bool closed_down_ = false;

  std::mutex join_mutex_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace forge::replicas
