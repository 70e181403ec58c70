#include <cstdint>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "payloads.h"

namespace payloads {

Location locate(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    std::string range, permissions, offset, device, inode, name;
    fields >> range >> permissions >> offset >> device >> inode;
    std::getline(fields >> std::ws, name);
    const auto dash = range.find('-');
    const std::uintptr_t first = std::stoull(range.substr(0, dash), nullptr, 16);
    const std::uintptr_t end = std::stoull(range.substr(dash + 1), nullptr, 16);
    if (wanted < first || wanted >= end) continue;
    return {name, wanted - first + std::stoull(offset, nullptr, 16)};
  }
  return {"(nowhere)", wanted};
}

}  // namespace payloads
