// Who breaks things while forge-bench chaos asks.
#pragma once

#include <forge/service.h>
#include <array>
#include <chrono>
#include <cstdint>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "bench/forge_bench/chaos_options.h"
#include "bench/forge_bench/chaos_tally.h"
#include "bench/forge_bench/stats.h"
#include "shm/file_descriptor.h"

namespace forge::bench {

struct ChaosFaultCounts {
  std::array<std::uint64_t, chaos::kFaults> committed{};
  std::uint64_t resumed = 0;          ///< stopped workers that were let go on
  std::uint64_t replaced = 0;         ///< stopped workers that were dead by then
  Histogram recovery;                 ///< from the fault until the replica was healthy again
  std::vector<std::string> not_back;  ///< replicas that did not come back
};

/// Commits a random fault against a random healthy replica at random intervals, from a thread of its
/// own, until stop().
class ChaosFaults {
 public:
  ChaosFaults(const Service& service, const ChaosTally& tally, const ChaosOptions& options);
  ~ChaosFaults() { stop(); }

  /// Lets stopped workers go on, commits nothing any more, and waits until all replicas are healthy.
  /// Precondition: no call is open.
  const ChaosFaultCounts& stop();

 private:
  using Clock = std::chrono::steady_clock;
  struct Target {
    std::uint64_t incarnation = 1;
    std::int64_t since_ns = 0;  ///< of the fault that ends this life; 0: none known
    shm::FileDescriptor stopped;
    Clock::time_point resume_at;
  };

  void run(const std::stop_token& stopping);
  void look(const std::vector<ReplicaStatus>& replicas);
  void commit(const std::vector<ReplicaStatus>& replicas);
  void stop_worker(Target& target, int pid);
  void resume(bool all);
  void settle();
  std::chrono::milliseconds pause();
  chaos::Tally::Replica& cell(std::size_t idx) const { return tally_->replicas[idx]; }

  const Service& service_;
  const ChaosTally& tally_;
  const ChaosOptions& options_;
  std::mt19937_64 random_;
  std::vector<Target> targets_;
  ChaosFaultCounts counts_;  // the thread's, until it is joined
  std::jthread thread_;
};

}  // namespace forge::bench
