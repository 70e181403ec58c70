// What the checks of `forge-bench gpu` share: how services are started, and the figures of
// forge-gpu-floor.
#pragma once

#include <forge/controller.h>

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/forge_bench/gpu.h"
#include "bench/forge_bench/gpu_work.h"
#include "bench/forge_bench/load.h"

namespace forge::bench {

class GpuBench {
 public:
  /// Throws UsageError like run_gpu_checks().
  explicit GpuBench(GpuOptions options);

  const GpuOptions& options() const { return options_; }
  /// Of a model: so wide on a card, and narrow where the host computes in its place.
  std::size_t width(std::size_t on_card) const { return options_.rehearse ? 64 : on_card; }

  /// Replicas of the model on the card; several share it.
  Service mlp(const mlp::Shape& shape, forge::Options service = {});
  Service sweep(int passes, forge::Options service);
  /// `digits`, with both of its endpoints.
  Service digits();

  /// A run of forge-gpu-floor, which prints one JSON object. Throws std::runtime_error with what it
  /// said if it failed.
  nlohmann::json floor(const std::vector<std::string>& arguments) const;

 private:
  Service start(const char* plugin, const char* actor, forge::Options service,
                const auto&... arguments);

  GpuOptions options_;
  std::string floor_;
  Controller controller_;
  std::map<std::string, Plugin> plugins_;  // each is described once
};

/// The endpoint `run` in batches of so many, and no waiting for stragglers.
forge::Options batches_of(int rows, std::size_t row_bytes, int outstanding);

/// Clients that ask one service for rows of the model.
LoadResult load_mlp(const Service& service, const std::shared_ptr<const MlpRows>& rows, int clients,
                    int inflight, double seconds);

/// Waits until all replicas are up; gives how long that took, in s. Throws std::runtime_error after
/// a minute.
double wait_until_healthy(const Service& service);

// --- The checks, in the order of the table --------------------------------------------------------
std::vector<Bar> answer_checks(GpuBench& bench);
std::vector<Bar> copy_checks(GpuBench& bench);
std::vector<Bar> gather_checks(GpuBench& bench);
std::vector<Bar> stream_checks(GpuBench& bench);
std::vector<Bar> latency_checks(GpuBench& bench);
std::vector<Bar> graph_checks(GpuBench& bench);
std::vector<Bar> fault_checks(GpuBench& bench);
std::vector<Bar> kill_checks(GpuBench& bench);
std::vector<Bar> ipc_checks(GpuBench& bench);
std::vector<Bar> nccl_checks(GpuBench& bench);
std::vector<Bar> soak_checks(GpuBench& bench);
/// A kernel that writes where nobody may, and nothing else: for a memory checker to find.
std::vector<Bar> planted_checks(GpuBench& bench);

}  // namespace forge::bench
