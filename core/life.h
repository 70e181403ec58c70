// The life of a replica: one incarnation, from the decision that there shall be one until all of its
// workers have been reaped, or until it is called off before it had any. The stage of a life says
// what exists of it; nothing else is asked.
//
//                    ┌────────────── called off ──────────────┐
//   planned ──files──┴─> spawning ──all started──> running ───┴──all reaped──> ended
//                           │                        │                           ^
//                           └───────> fenced <───────┘───────all reaped──────────┘
//
// Pure data; guarded by the service's lock.
#pragma once

#include <forge/error.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpu/device_book.h"
#include "replicas/channel.h"
#include "replicas/spawner.h"

namespace forge::core {

struct Unit;
struct Version;
using VersionPtr = std::shared_ptr<const Version>;

enum class Stage : std::uint8_t {
  planned,   ///< it will start, now or after a delay; it has no files and no process
  spawning,  ///< its control files exist, and its workers are being started
  running,   ///< all of its workers have been started
  fenced,    ///< its workers are being killed, and no other is started
  ended,     ///< all of its workers have been reaped, or it never had any
};

/// May a life in stage `from` enter stage `to`?
constexpr bool may_follow(Stage from, Stage to) {
  switch (to) {
    case Stage::planned:
      return false;
    case Stage::spawning:
      return from == Stage::planned;
    case Stage::running:
      return from == Stage::spawning;
    case Stage::fenced:
      return from == Stage::spawning || from == Stage::running;
    case Stage::ended:
      return from == Stage::planned || from == Stage::running || from == Stage::fenced;
  }
  return false;
}

/// Why forge ends a life.
enum class FenceReason : std::uint8_t {
  none,               ///< it did not: the life ended by itself, or by a signal from outside
  rank_lost,          ///< another rank of the replica has ended
  setup_failed,       ///< its constructor or setup() threw, or one of its workers could not start
  not_up_in_time,     ///< start_timeout
  overrun,            ///< a call ran longer than its exec_timeout
  stopped_by_signal,  ///< a worker that has work does not run: SIGSTOP
  violation,          ///< it wrote what no worker writes
  not_gone_in_time,   ///< it had nothing left to do and did not end within the grace period
  called_off,         ///< nobody wants it any more
};

struct Rank {
  std::shared_ptr<replicas::Channel> channel;
  replicas::Process process;
  bool alive = false;                 ///< started, or about to be, and not reaped
  std::uint64_t heartbeat = 0;        ///< as last seen
  std::chrono::nanoseconds silent{};  ///< how long it has been seen not to change, with work to do
  bool stuck = false;                 ///< it outlives its SIGKILL
  int stops = 0;                      ///< times in a row that it was found stopped
  std::uint64_t output = 0;           ///< its pipes
  gpu::Seat seat = {};                ///< its device, if it has one
};

struct Life {
  Life() = default;
  Life(Unit& of, VersionPtr what) : unit(&of), version(std::move(what)), stage_(Stage::planned) {}

  Stage stage() const { return stage_; }
  /// Precondition: may_follow(stage(), to).
  void enter(Stage to);
  bool has_workers() const { return stage_ != Stage::planned && stage_ != Stage::ended; }
  bool any_alive() const;

  Unit* unit = nullptr;  ///< whose it is; changes when a spare takes over
  VersionPtr version;
  std::vector<Rank> ranks;
  std::uint64_t lockstep_calls = 0;     ///< sent to all ranks
  std::chrono::nanoseconds starting{};  ///< how long it has been running without being up
  std::chrono::nanoseconds stopping{};  ///< how long it has been expected to end by itself
  bool came_up = false;
  bool answered = false;  ///< a call
  bool draining = false;  ///< it is being replaced or dismissed: it finishes what it has been sent
  bool asked_to_stop = false;  ///< it has finished that, and shall end
  // How it ended:
  FenceReason fence = FenceReason::none;
  std::string verdict;  ///< in words, if one of its calls or a signal is the reason
  Status setup_error;
  bool let_down = false;  ///< setup_error is the consequence of another rank's error
  std::string first_exit;
  std::string last_moments;  ///< lines: what it was doing, and where a signal struck
  std::uint32_t failed_rank = 0;
  bool killed_from_outside = false;
  std::uint64_t culprit = 0;  ///< the request that alone is to blame, packed; 0: none is known
  bool by_itself = false;     ///< the rank that failed: we had not begun to kill it
  bool device_lost = false;   ///< by the rank that failed
  bool left = false;          ///< by itself: an endpoint with restart_on_error has failed
  bool shortage = false;      ///< the system had no process, memory or descriptor for it

 private:
  Stage stage_ = Stage::ended;
};
using LifePtr = std::shared_ptr<Life>;

}  // namespace forge::core
