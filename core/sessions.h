// The sessions of one service: which replica each sticks to, and since when it has been idle.
//
// Pure: no lock, no clock of its own, no I/O. Guarded by its service's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace forge::core {

inline constexpr std::uint32_t kNoReplica = ~std::uint32_t{0};

struct SessionState {
  std::string id;
  std::uint32_t replica =
      kNoReplica;            ///< it sticks to; none before its first call and after a death
  bool strict = false;       ///< its caller wants to hear that its state is gone
  bool lost = false;         ///< its state is, and the next call will hear it
  bool ended = false;        ///< forgotten when its last call is over
  std::uint32_t calls = 0;   ///< open
  std::uint32_t shares = 0;  ///< of them, shares of fanouts that are in its order
  std::chrono::steady_clock::time_point idle_since{};  ///< meaningful while there are no calls
};

class Sessions {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// For routers: session id → replica.
  using Map = std::map<std::string, std::uint32_t, std::less<>>;

  /// The session's number, never 0; started if there is none with this id. Numbers are never reused.
  std::uint64_t open(std::string_view id, bool strict, Time now);
  SessionState& at(std::uint64_t number) { return states_.at(number); }
  const SessionState& at(std::uint64_t number) const { return states_.at(number); }
  bool exists(std::uint64_t number) const { return states_.contains(number); }
  std::uint64_t find(std::string_view id) const;  ///< 0: there is none

  void place(std::uint64_t number, std::uint32_t replica);
  void begin_call(std::uint64_t number) { ++at(number).calls; }
  void end_call(std::uint64_t number, Time now);

  /// Forgotten once its calls are over. False: there is no such session.
  bool end(std::string_view id);
  /// The replica has died, and with it what actors kept for their sessions: these.
  std::vector<std::uint64_t> replica_lost(std::uint32_t replica);
  /// Forgets sessions that have had no call for `timeout`. True if any are left.
  bool evict(Time now, std::chrono::nanoseconds timeout);

  std::size_t size() const { return numbers_.size(); }
  std::size_t on(std::uint32_t replica) const;
  const Map& map() const { return map_; }
  /// Called with the number of each session that is forgotten.
  void on_forget(std::function<void(std::uint64_t)> f) { forgotten_ = std::move(f); }

 private:
  void forget(std::uint64_t number);

  std::uint64_t last_ = 0;
  std::unordered_map<std::uint64_t, SessionState> states_;
  std::map<std::string, std::uint64_t, std::less<>> numbers_;  // not those that have ended
  Map map_;                                                    // those that stick to a replica
  std::unordered_map<std::uint32_t, std::size_t> per_replica_;
  std::function<void(std::uint64_t)> forgotten_ = [](std::uint64_t) {};
};

}  // namespace forge::core
