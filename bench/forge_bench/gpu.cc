#include "bench/forge_bench/gpu.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "bench/forge_bench/gpu_bench.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

/// Checks that are made together.
struct GpuGroup {
  const char* name;
  std::vector<Bar> (*run)(GpuBench&);
  bool needs_card;     ///< it compares with what the card itself can do
  bool asked = false;  ///< only made when it is named
};

constexpr GpuGroup kGroups[] = {
    {"answers", answer_checks, false}, {"copy", copy_checks, true},
    {"gather", gather_checks, true},   {"stream", stream_checks, true},
    {"latency", latency_checks, true}, {"graph", graph_checks, true},
    {"fault", fault_checks, true},     {"kills", kill_checks, false},
    {"ipc", ipc_checks, true},         {"nccl", nccl_checks, false},
    {"soak", soak_checks, false},      {"planted", planted_checks, true, true},
};

}  // namespace

std::vector<std::string> gpu_check_names() {
  std::vector<std::string> names;
  for (const GpuGroup& group : kGroups) names.emplace_back(group.name);
  return names;
}

std::vector<Bar> run_gpu_checks(const GpuOptions& options) {
  GpuBench bench(options);
  std::vector<Bar> checks;
  for (const GpuGroup& group : kGroups) {
    const bool named = std::ranges::find(options.only, group.name) != options.only.end();
    if (!named && (group.asked || !options.only.empty())) continue;
    if (options.rehearse && group.needs_card) continue;
    try {
      for (Bar& check : group.run(bench)) checks.push_back(std::move(check));
    } catch (const std::exception& error) {
      // The others can still say something.
      Bar failed{.name = group.name, .target = "can be measured"};
      failed.note = error.what();
      failed.note.resize(std::min(failed.note.find('\n'), failed.note.size()));
      failed.verdict = Verdict::missed;
      checks.push_back(std::move(failed));
    }
  }
  return checks;
}

}  // namespace forge::bench
