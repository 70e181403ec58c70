// Errors that nobody receives: of broadcasts, of futures that were dropped, of what callbacks throw. All
// are counted; how many of them are told is bounded.
#pragma once

#include <forge/error.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace forge::core {

/// Any thread. Its lock is a leaf.
class UnheardErrors {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// Between two lines about the same kind of error of one origin.
  static constexpr std::chrono::seconds kPause{10};

  /// Counts one. `who`: an endpoint, or a callback. Gives the line to be told, if it is time for one.
  std::optional<std::string> add(const std::string& who, const Error& error, Time now);
  /// Lines for what has been counted since the last one of its kind.
  std::vector<std::string> rest();
  /// Of `who`, by code.
  std::map<std::string, std::uint64_t> counts(const std::string& who) const;

 private:
  struct Count {
    std::uint64_t all = 0;
    std::uint64_t told = 0;  // of them
    Time told_at{};
    std::string last;  // what it said
  };
  using Kind = std::pair<std::string, ErrorCode>;
  static std::string tell(const Kind& kind, Count& count);

  mutable std::mutex mutex_;
  std::map<Kind, Count> counts_;
};

}  // namespace forge::core
