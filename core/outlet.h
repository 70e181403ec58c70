// The way out to somebody who may be slow or never come back: standard output, standard error, on_log.
// A thread of its own hands texts on, so that nobody else ever waits for them.
//
// Invariants
//   W1  The outlet's thread alone calls the sink: one text at a time, in order, under no lock.
//   W2  offer() never waits. Texts without room are dropped; their lines are counted, and the sink is
//       told the count where they are missing.
//   W3  put(), drain() and the destructor wait as long as the sink gets on. One that has taken nothing
//       for kStall is not waited for until it takes something again.
//   W4  A sink that does not return keeps its thread and the queue, nothing else: it is called no more,
//       and nothing of the outlet's owner is touched.
#pragma once

#include <forge/controller.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace forge::core {

/// Any thread, under any lock but for put(), drain() and the destructor.
class Outlet {
 public:
  static constexpr std::chrono::milliseconds kStall{1000};
  /// The longest that drain() and the destructor wait for a sink that gets on.
  static constexpr std::chrono::milliseconds kLongestDrain{5000};
  /// Bytes that may wait. put() leaves half of them to offer().
  static constexpr std::size_t kRoom = std::size_t{1} << 20;

  struct Text {
    LogLevel level = LogLevel::info;
    std::string text;
  };
  using Sink = std::function<void(LogLevel, std::string_view)>;  ///< throws nothing
  /// Says that so many lines were dropped.
  using Note = std::function<Text(std::uint64_t)>;

  /// `piece`: the sink gets at most so many bytes at once. Throws Unavailable if there is no thread.
  Outlet(const char* thread, Sink sink, Note note, std::size_t piece = SIZE_MAX);
  Outlet(const Outlet&) = delete;
  Outlet& operator=(const Outlet&) = delete;
  /// Drains. On its own thread it waits for nothing.
  ~Outlet();

  /// That of this program's standard output or standard error, which all controllers share.
  static std::shared_ptr<Outlet> standard(int fd);

  /// False if there was no room.
  bool offer(LogLevel level, std::string text);
  /// Waits for room, as W3 says, and not once `hurry` is set; false if there was none.
  bool put(std::string text, const std::atomic<bool>& hurry);
  /// Returns when all that has been accepted is with the sink, or as W3 says.
  void drain();

 private:
  struct Queue;
  explicit Outlet(std::shared_ptr<Queue> queue);
  std::shared_ptr<Queue> queue_;  // with the thread
};

}  // namespace forge::core
