// Calls that crash workers: the same endpoint with the same arguments is refused when two of its
// executions have ended their worker, each while nothing else ran there. For endpoints that are not
// idempotent; those that are get their second execution from the ledger.
//
// A refusal ends a while after the last death: what the call met (a file, a device) may be gone. If it
// crashes once more then, it is refused again at once. Pure: no clock, no lock.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

namespace forge::core {

class Suspects {
 public:
  using Time = std::chrono::steady_clock::time_point;

  struct Suspect {
    std::uint64_t fingerprint = 0;  ///< of endpoint and arguments
    int deaths = 0;
    Time last{};
    std::string deeds{};  ///< what it did, for messages; and where its recording lies
  };

  /// `refused_for`: how long after its last death a call is refused.
  explicit Suspects(std::chrono::nanoseconds refused_for) : refused_for_(refused_for) {}

  bool empty() const { return suspects_.empty(); }
  /// One more death. The reference holds until the next call.
  Suspect& note(std::uint64_t fingerprint, Time now);
  /// Why the call is refused; null: it is not.
  const Suspect* refused(std::uint64_t fingerprint, Time now);
  void clear() { suspects_.clear(); }

  static constexpr int kMostDeaths = 2;
  static constexpr std::size_t kMost = 64;  ///< the oldest are forgotten first

 private:
  void forget_old(Time now);

  const std::chrono::nanoseconds refused_for_;
  std::deque<Suspect> suspects_;  // by time of the last death
};

}  // namespace forge::core
