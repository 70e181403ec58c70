#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

#include "tools/forge/commands.h"

namespace forge::tool {
namespace {

/// Newest first.
std::vector<std::filesystem::path> reports_in(const std::string& folder) {
  std::vector<std::filesystem::path> found;
  std::error_code none;
  for (std::filesystem::directory_iterator it(folder, none), end; it != end; it.increment(none)) {
    if (it->path().extension() == ".crash") found.push_back(it->path());
  }
  std::sort(found.begin(), found.end(), [&](const auto& a, const auto& b) {
    std::error_code ignored;
    return std::filesystem::last_write_time(a, ignored) >
           std::filesystem::last_write_time(b, ignored);
  });
  return found;
}

}  // namespace

int postmortem(const std::string& folder, std::size_t count) {
  const auto reports = reports_in(folder);
  if (reports.empty()) {
    std::printf("No worker of this user has left a crash report in %s.\n", folder.c_str());
    return 0;
  }
  for (std::size_t i = 0; i < std::min(count, reports.size()); ++i) {
    std::ifstream in(reports[i]);
    std::printf("%s%s\n", i == 0 ? "" : "\n", reports[i].c_str());
    for (std::string line; std::getline(in, line);) std::printf("%s\n", line.c_str());
  }
  if (count < reports.size()) {
    std::printf("\n%zu older ones; forge postmortem --last %zu shows all\n", reports.size() - count,
                reports.size());
  }
  return 0;
}

}  // namespace forge::tool
