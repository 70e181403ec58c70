// forge-bench chaos: everything is asked while workers are killed, and the books are balanced
// afterwards.
#pragma once

#include <forge/service.h>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/forge_bench/chaos_faults.h"
#include "bench/forge_bench/chaos_held.h"
#include "bench/forge_bench/chaos_ledger.h"
#include "bench/forge_bench/chaos_options.h"

namespace forge::bench {

/// A sixth of a run: of an hour, ten minutes.
struct ChaosSixth {
  std::uint64_t answers = 0;  ///< in it
  double seconds = 0;         ///< it took
  double resident = 0;        ///< physical memory of this process at its end, in bytes
  Held held;                  ///< likewise, without the arena
};

struct ChaosRun {
  explicit ChaosRun(const ChaosRules& rules) : ledger(rules) {}

  ChaosLedger ledger;
  ChaosEnd end;
  ChaosFaultCounts faults;
  ServiceCounters counters;
  std::uint64_t out_of_order = 0;  ///< calls of sessions
  double seconds = 0;
  std::vector<ChaosSixth> sixths;
  double core_share = 0;        ///< of this process: controller, clients and checks
  Held before;                  ///< with the service up, before the first fault
  Held after;                   ///< with the service up, after the last
  std::string held_while_idle;  ///< until it was called again, if that was more than before
  Held process_before;          ///< without a controller
  Held process_after;           ///< likewise
  std::string first_error;      ///< of a request that should have none
};

/// Throws UsageError if the plugin is not found or forge refuses the options.
ChaosRun run_chaos(const ChaosOptions& options);

}  // namespace forge::bench
