// What people type, or keep in files: a worker's command line, durations, a model's weights.
// Input: which of them, then its text.
#include <chrono>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

#include "bench/forge_bench/duration.h"
#include "replicas/worker.h"
#include "tests/fuzz/input.h"
#include "tools/plugins/digits/model.h"

namespace forge::fuzz {
namespace {

/// Arguments are separated by line ends.
void command_line(const std::string& text) {
  std::vector<std::string> arguments{"forge-worker"};
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) arguments.push_back(line);
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const int argc = static_cast<int>(arguments.size());
  const bool wanted = argc == 3 && std::string(arguments[1].c_str()) == replicas::kWorkerFlag;
  require(replicas::wants_worker(argc, argv.data()) == wanted, "who is a worker");
}

void duration(const std::string& text) {
  try {
    constexpr std::chrono::hours kMost(1);
    const auto parsed = bench::parse_duration("--batch-timeout", text, kMost);
    require(parsed.count() >= 0 && parsed <= kMost, "a duration in its bounds");
  } catch (const std::exception&) {
  }
}

void model(const std::string& text) {
  try {
    std::istringstream in(text);
    digits::Mlp::load(in, "input");
  } catch (const std::exception&) {
  }
}

}  // namespace
}  // namespace forge::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace forge::fuzz;
  Input input(data, size);
  const std::uint8_t which = input.byte();
  const auto bytes = input.take(size);
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  switch (which % 3) {
    case 0:
      command_line(text);
      break;
    case 1:
      duration(text);
      break;
    default:
      model(text);
  }
  return 0;
}
