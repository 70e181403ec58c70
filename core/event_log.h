// What has happened, for those who look in: the last thousand events of a controller.
#pragma once

#include <forge/controller.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

namespace forge::core {

struct Event {
  LogLevel level = LogLevel::info;
  std::string kind;     ///< "up", "died", "restarting", … ; "log": only the text says
  std::string service;  ///< empty: the controller
  int replica = -1;     ///< -1: all of the service
  std::string text;
  std::uint64_t number = 0;  ///< from 1, without gaps. The log gives it
  std::int64_t at_ns = 0;    ///< likewise; CLOCK_MONOTONIC, which all processes share
};

/// Any thread. Its lock is a leaf.
class EventLog {
 public:
  static constexpr std::size_t kKept = 1000;

  void add(Event event);
  /// Those behind number `after` that are still there, oldest first, at most `most`.
  std::vector<Event> since(std::uint64_t after, std::size_t most) const;
  std::uint64_t last() const;
  /// An eventfd that is written to at each event; -1: none. After this returns the old one is not used.
  void set_bell(int eventfd);

 private:
  mutable std::mutex mutex_;
  std::deque<Event> events_;
  std::uint64_t last_ = 0;
  int bell_ = -1;
};

}  // namespace forge::core
