// What forge-bench chaos is told on its command line.
#pragma once

#include <forge/options.h>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tools/plugins/chaos/tally.h"

namespace forge::bench {

struct ChaosOptions {
  int replicas = 4;
  int clients = 4;
  int inflight = 8;  ///< of each client
  int spares = 0;
  int procs = 1;
  std::size_t arena = forge::Options{}.arena_bytes;  ///< bytes, and of each worker's answers
  bool coroutines = false;                           ///< endpoints that interleave, where they can
  double duration_s = 10;
  std::uint64_t seed = 1;
  std::vector<chaos::Fault> faults = {chaos::Fault::kill};
  std::pair<int, int> every_ms = {5, 35};  ///< between two faults
  std::string json;
  std::string plugin_dir;
};

const char* to_string(chaos::Fault fault);

/// "kill,segv". Throws UsageError naming what is no fault.
std::vector<chaos::Fault> parse_faults(const std::string& text);
/// "5,35", or "20" for always the same. Throws UsageError.
std::pair<int, int> parse_every(const std::string& text);
/// As parse_faults() reads it.
std::string faults_text(const std::vector<chaos::Fault>& faults);
bool has_fault(const ChaosOptions& options, chaos::Fault fault);
/// Can the requests that may be under way at once fill the queue of a replica, or the arena? Then
/// Backpressure is a right answer.
bool may_fill_up(const ChaosOptions& options);
/// What one needs beside --seed, --faults and so on to have the same service again; empty: nothing.
std::string service_text(const ChaosOptions& options);
/// A worker that crashes by itself, or is silent, counts against the calls it had; one that is
/// killed from outside does not.
bool only_outside_kills(const ChaosOptions& options);

}  // namespace forge::bench
