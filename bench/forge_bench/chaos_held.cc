#include "bench/forge_bench/chaos_held.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

bool is_child(const std::filesystem::path& process) {
  std::ifstream file(process / "stat");
  std::string line;
  std::getline(file, line);
  const auto end = line.rfind(')');  // the name in parentheses may contain anything
  if (end == std::string::npos) return false;
  std::istringstream rest(line.substr(end + 1));
  std::string state;
  int parent = 0;
  return rest >> state >> parent && parent == ::getpid();
}

bool fits(const Service& service, std::size_t bytes) {
  try {
    service.allocate(DType::u8, {static_cast<std::int64_t>(bytes)});
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

Held held_now() {
  namespace fs = std::filesystem;
  Held held;
  std::error_code ignored;
  for (fs::directory_iterator it("/proc/self/fd", ignored), end; it != end; it.increment(ignored))
    ++held.descriptors;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    held.segments += line.find("memfd:forge:") != std::string::npos ? 1 : 0;
  for (fs::directory_iterator it("/proc", ignored), end; it != end; it.increment(ignored)) {
    const std::string name = it->path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    held.processes += is_child(it->path()) ? 1 : 0;
  }
  return held;
}

Held held_now(const Service& service) {
  Held held = held_now();
  std::size_t beyond = std::size_t{1} << 40;
  while (beyond - held.arena > 1) {
    const std::size_t middle = held.arena + (beyond - held.arena) / 2;
    (fits(service, middle) ? held.arena : beyond) = middle;
  }
  return held;
}

std::string describe(const Held& held) {
  std::string out = text("%zu descriptors, %zu segments, %zu processes", held.descriptors,
                         held.segments, held.processes);
  if (held.arena != 0) out += ", " + with_commas(held.arena) + " B of arena free";
  return out;
}

}  // namespace forge::bench
