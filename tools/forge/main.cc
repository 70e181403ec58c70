// forge: what one does with a running or broken service from a shell.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "replicas/flight.h"
#include "replicas/recording.h"

namespace {

int replay(const std::string& path) {
  const auto recording = forge::replicas::load_recording(path);
  if (recording && !recording->program.empty()) {
    std::fprintf(stderr,
                 "forge: the actor is linked into %s; run  %s %s %s  (its main() calls "
                 "forge::init)\n",
                 recording->program.c_str(), recording->program.c_str(),
                 forge::replicas::kReplayFlag, path.c_str());
    return 2;
  }
  return forge::replicas::run_replay(path);
}

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

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app{"Looks into forge services.", "forge"};
  app.require_subcommand(1);
  app.footer("Measuring: forge-bench --help");
  std::string path;
  CLI::App* const again =
      app.add_subcommand("replay", "Runs a request that killed workers once more, in this process");
  again->add_option("file", path, "That the PoisonRequest named")->required();
  again->footer("Under a debugger:  gdb --args forge replay FILE");
  std::string folder = forge::replicas::default_keep_folder();
  std::size_t count = 1;
  CLI::App* const after =
      app.add_subcommand("postmortem", "What workers were doing when they crashed, newest first");
  after->add_option("--last", count, "So many of them")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  after->add_option("--dir", folder, "Where ControllerOptions::poison_dir says")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return after->parsed() ? postmortem(folder, count) : replay(path);
} catch (const std::exception& error) {
  std::fprintf(stderr, "forge: %s\n", error.what());
  return 2;
}
