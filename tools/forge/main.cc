// forge: what one does with a running or broken service from a shell.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

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
  CLI11_PARSE(app, argc, argv);
  return replay(path);
} catch (const std::exception& error) {
  std::fprintf(stderr, "forge: %s\n", error.what());
  return 2;
}
