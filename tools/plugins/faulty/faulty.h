// Faulty: does on demand what an actor should never do. Tests and `forge-bench --kill-every` need a
// worker that fails in one particular way, at one particular moment.
#pragma once

#include <forge/actor.h>
#include <forge/payload.h>
#include <forge/plugin.h>

#include <cstdint>
#include <string>
#include <utility>

namespace faulty {

/// What all three actors of this plugin can do. A `marker` is a file: what is done "once" is done
/// by the first process that creates it, so that a second execution can be told from the first.
class Faulty : public forge::ForgeActor {
 public:
  // Harmless: to see that the actor lives.
  std::int64_t echo(std::int64_t value) const { return value; }
  std::int64_t pid() const;  ///< of the worker
  /// How many calls this instance has executed before this one.
  std::int64_t calls() { return calls_++; }
  /// A `size` bytes long answer.
  forge::Bytes make_bytes(std::uint64_t size) const { return forge::Bytes(size); }
  /// Appends "<value>\n" to a file in one write: counts executions across processes.
  void record(const std::string& path, std::int64_t value) const;
  /// record, then sleep: a kill in between finds the call started and not answered.
  void record_and_sleep(const std::string& path, std::int64_t value, std::int64_t ms) const;

  // Slow.
  void sleep_ms(std::int64_t ms) const;
  void spin_ms(std::int64_t ms) const;  ///< without a system call that could be interrupted

  // Failing, and alive afterwards.
  void throw_error(const std::string& text) const;  ///< std::runtime_error
  void throw_int(std::int64_t value) const;         ///< not derived from std::exception
  void throw_forge(const std::string& text) const;  ///< forge::InvalidArgument

  // Ending the process.
  void abort() const;
  void exit(std::int64_t status) const;  ///< without destructors and exit handlers
  void segfault() const;
  void kill() const;  ///< SIGKILL to itself
  void kill_once(const std::string& marker) const;
  void stop() const;  ///< SIGSTOP to itself: alive, and silent

  /// Holds `size` more bytes, all of them touched, until the process ends. Gives the total.
  std::uint64_t leak(std::uint64_t size) const;

 private:
  std::int64_t calls_ = 0;
};

/// One of the faults that construction and setup can have: "" or "none", "throw", "throw_int",
/// "sleep" (ms), "spin" (ms), "abort", "exit" (ms is the status), "segfault", "kill".
/// With a marker, only the first process that finds the file missing has it.
void commit(const std::string& fault, std::int64_t ms, const std::string& marker);

/// Commits a fault in its constructor.
class FaultyConstructor : public Faulty {
 public:
  FaultyConstructor(const std::string& fault, std::int64_t ms, const std::string& marker) {
    commit(fault, ms, marker);
  }
};

/// Commits a fault in setup().
class FaultySetup : public Faulty {
 public:
  FaultySetup(std::string fault, std::int64_t ms, std::string marker)
      : fault_(std::move(fault)), ms_(ms), marker_(std::move(marker)) {}
  void setup() override { commit(fault_, ms_, marker_); }

 private:
  std::string fault_;
  std::int64_t ms_;
  std::string marker_;
};

}  // namespace faulty
