// What workers print: one thread per controller reads their stdout and stderr from pipes and writes it
// line by line to this program's, as "[service/replica.rank] line".
//
// Invariants
//   O1  This thread waits for our own stdout as long as that gets on, and workers whose pipes are full
//       wait for it. When nobody reads any more, lines are dropped and counted (outlet.h).
//   O2  What a worker wrote before it died is written, whatever killed it: it lies in the pipe.
//   O3  A pipe is closed when its worker has been reaped, also if somebody else still holds its other
//       end.
#pragma once

#include <forge/result.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/outlet.h"
#include "shm/file_descriptor.h"

namespace forge::core {

/// Longer lines are cut into several.
inline constexpr std::size_t kLongestLine = 64 * 1024;

/// open(), close(), flush(): any thread.
class Output {
 public:
  /// The ends that a worker writes to.
  struct Ends {
    std::uint64_t id = 0;
    shm::FileDescriptor out;
    shm::FileDescriptor err;
  };

  /// Throws Unavailable if the system has no descriptor or thread left.
  Output();
  ~Output() { stop(); }
  /// Writes what there is, as far as it is read, and ends the thread. Idempotent.
  void stop();

  /// Pipes for the worker called `name`. Error: Unavailable.
  Result<Ends> open(const std::string& name);
  /// The worker goes by another name from now on; what it wrote before keeps the old one. A line is
  /// of the name it ends under. No more than once for each.
  void rename(std::uint64_t id, const std::string& name);
  /// That worker is dead. What it left in its pipes is still written.
  void close(std::uint64_t id);
  /// Returns when all that workers left which were closed before has been written, or nobody reads it.
  void flush();

 private:
  struct Pipe {
    std::uint64_t worker;
    int target;  // our own descriptor that it goes to
    shm::FileDescriptor fd;
    std::string prefix;
    std::string line;  // begun, without the prefix
    bool ended = false;
    // Guarded by mutex_, and written by the thread.
    std::uint64_t taken = 0;  // bytes, out of the pipe
    // Guarded by mutex_.
    std::uint64_t renamed_from = 0;  // the byte that next_prefix begins with
    std::string next_prefix = {};
  };

  void wake();
  void run();
  void read_some(Pipe& pipe, std::size_t limit);
  void read_rest(Pipe& pipe);
  void end(Pipe& pipe);
  void take(Pipe& pipe, std::string_view bytes);
  void end_line(Pipe& pipe);
  void write_lines(int target);

  shm::FileDescriptor wakeup_;      // eventfd
  std::shared_ptr<Outlet> out_;     // null once stopped
  std::shared_ptr<Outlet> err_;     // likewise
  std::atomic<bool> hurry_{false};  // do not wait for them any more
  std::mutex mutex_;                // guards these seven, and who is in pipes_; a leaf
  std::condition_variable changed_;
  std::vector<Pipe> opened_;  // not seen by the thread yet
  std::vector<std::uint64_t> closed_;
  std::uint64_t last_id_ = 0;
  std::uint64_t asked_ = 0;    // flushes
  std::uint64_t flushed_ = 0;  // of them, how many are done
  bool stop_ = false;
  bool ended_ = false;

  // Owned by the thread.
  std::vector<Pipe> pipes_;
  std::vector<char> buffer_;
  std::string lines_;  // whole, with prefixes

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace forge::core
