#include "bench/forge_bench/machine.h"

#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>

#include "bench/forge_bench/cpus.h"
#include "bench/forge_bench/git_version.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

/// The value of the first line "key<blanks>: value".
std::string field(const char* path, std::string_view key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const std::size_t at = line.find_first_not_of(" \t", line.find(':') + 1);
    return at == std::string::npos ? "" : line.substr(at);
  }
  return "";
}

std::string utc_now() {
  const time_t now = ::time(nullptr);
  tm broken{};
  ::gmtime_r(&now, &broken);
  return text("%04d-%02d-%02dT%02d:%02d:%02dZ", broken.tm_year + 1900, broken.tm_mon + 1,
              broken.tm_mday, broken.tm_hour, broken.tm_min, broken.tm_sec);
}

}  // namespace

Machine look_at_machine() {
  Machine machine;
  utsname names{};
  ::uname(&names);
  machine.kernel = names.release;
  machine.architecture = names.machine;
  machine.cpu = field("/proc/cpuinfo", "model name");
  if (machine.cpu.empty()) machine.cpu = machine.architecture;  // aarch64 names no model
  machine.cpus = static_cast<int>(allowed_cpus().size());
  machine.memory_gib = std::strtod(field("/proc/meminfo", "MemTotal").c_str(), nullptr) / (1 << 20);
  std::ifstream("/proc/loadavg") >> machine.load;
  machine.date = utc_now();
  return machine;
}

double resident_bytes(const std::string& pid) {
  std::ifstream in("/proc/" + pid + "/statm");
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  in >> all >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

Build build() {
  return {FORGE_BENCH_VERSION, FORGE_BENCH_GIT,
#ifdef __clang__
          "clang " __clang_version__,
#else
          "g++ " __VERSION__,
#endif
          FORGE_BENCH_BUILD_TYPE};
}

}  // namespace forge::bench
