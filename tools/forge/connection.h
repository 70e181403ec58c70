// The other end of a controller's socket. Everything throws forge::Error: Unavailable when there is no
// such controller, or it has ended; InvalidArgument when it says what no controller says.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "core/frames.h"
#include "core/local_socket.h"
#include "core/statistics_segment.h"

namespace forge::tool {

using core::Json;

class Connection {
 public:
  explicit Connection(const core::FoundSocket& found);

  /// Sends a request; its answers come from receive().
  void send(Json request);
  /// The next answer; nothing if none came within the time.
  std::optional<Json> receive(std::chrono::milliseconds limit);
  /// The same, and what it says is an error is thrown, with how the controller put it.
  Json answer();
  /// What came along with answers.
  shm::FileDescriptor take_fd() { return std::move(fd_); }
  int socket() const { return socket_.get(); }
  const std::string& name() const { return name_; }  ///< "controller 123"

 private:
  [[noreturn]] void ended() const;

  std::string name_;
  shm::FileDescriptor socket_;
  core::FrameReader in_{core::kLongestAnswer};
  shm::FileDescriptor fd_;
  int last_id_ = 0;
};

/// Throws what the answer says if it is a refusal.
void require_ok(const Json& answer);

/// As --controller names it: a process id, with -2 and so on behind it for others of that process.
/// Empty: the only one there is.
core::FoundSocket find_controller(const std::string& wanted);

/// The statistics of a controller, read where it writes them.
class Watch {
 public:
  explicit Watch(Connection& connection);
  /// An answer that came meanwhile may bring another segment.
  void take(const Json& answer);
  /// The newest. `fresh`: written since the last time this was asked.
  Json read(bool* fresh = nullptr);
  std::chrono::milliseconds period() const;

 private:
  Connection& connection_;
  std::optional<core::StatisticsReader> reader_;
  std::uint64_t seen_ = 0;
};

}  // namespace forge::tool
