#include "bench/forge_bench/options.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "bench/forge_bench/cpus.h"
#include "tools/plugins/digits/serving.h"

namespace forge::bench {

const char* to_string(Wait wait) {
  switch (wait) {
    case Wait::spin:
      return "spin";
    case Wait::adaptive:
      return "adaptive";
    case Wait::block:
      return "block";
  }
  return "?";
}

Target target(const Options& options) {
  Target result{"libecho.so", "Echo", uses_tensors(options) ? "tensor" : "bytes", {}};
  if (options.work == Work::digits) {
    result = {"libdigits.so", "Digits", "classify", digits::serving()};
  } else if (options.sessions > 0) {
    result.endpoint += "_in_order";
  } else if (options.batch_size.value_or(1) != 1) {
    result.endpoint += "_batch";
  }
  if (options.batch_size) result.options.batch_size = *options.batch_size;
  if (options.batch_timeout) result.options.batch_timeout = *options.batch_timeout;
  if (!options.router.empty()) result.options.router = options.router;
  // A killed worker's started requests may only be tried again where that is harmless.
  if (options.kill_every_ms > 0) result.options.idempotent = true;
  return result;
}

bool uses_rows(const Options& options) {
  return uses_tensors(options) && target(options).options.batch_size > 1;
}

void check(const Options& options) {
  if (options.sessions != 0 && options.sessions < options.clients) {
    throw UsageError("--sessions " + std::to_string(options.sessions) + " are too few for " +
                     std::to_string(options.clients) +
                     " clients: the calls of a session come from one of them");
  }
}

Placement placement(const Options& options) {
  const std::vector<int> allowed = allowed_cpus();
  for (int cpu : options.cpus) {
    if (std::find(allowed.begin(), allowed.end(), cpu) == allowed.end()) {
      throw UsageError("--cpus: this process may not run on cpu " + std::to_string(cpu) +
                       "; see `taskset -cp $$`");
    }
  }
  Placement result;
  const std::vector<int>& pool = options.cpus.empty() ? allowed : options.cpus;
  const auto other =
      std::find_if(pool.begin(), pool.end(), [&](int cpu) { return cpu != pool.front(); });
  if (other != pool.end()) result.floor = {pool.front(), *other};

  const bool one_to_one = options.clients == 1 && options.replicas * options.procs == 1;
  if (!options.cpus.empty()) {
    result.clients = {options.cpus.front()};
    result.workers.assign(options.cpus.begin() + (options.cpus.size() > 1 ? 1 : 0),
                          options.cpus.end());
  } else if (one_to_one && !result.floor.empty()) {
    result.clients = {result.floor[0]};
    result.workers = {result.floor[1]};
  }
  return result;
}

std::string plugin_path(const Options& options, const std::string& file) {
  namespace fs = std::filesystem;
  std::vector<fs::path> folders;
  const char* from_environment = std::getenv("FORGE_PLUGIN_DIR");  // NOLINT(concurrency-mt-unsafe)
  if (!options.plugin_dir.empty()) {
    folders = {options.plugin_dir};
  } else if (from_environment != nullptr && *from_environment != '\0') {
    folders = {from_environment};
  } else {
    const fs::path here = fs::read_symlink("/proc/self/exe").parent_path();
    folders = {here, here / FORGE_BENCH_PLUGINS_FROM_BIN};
  }
  std::string looked;
  for (const fs::path& folder : folders) {
    std::error_code ignored;
    if (fs::is_regular_file(folder / file, ignored)) return (folder / file).string();
    looked += (looked.empty() ? "" : " or ") + folder.string();
  }
  throw UsageError(file + " is not in " + looked +
                   "; build it, or say where it is with --plugin-dir");
}

}  // namespace forge::bench
