// A fuzz target as an ordinary test: the inputs of its corpus, then random mutations of them.
// Arguments: inputs to replay instead. FORGE_FUZZ_RUNS: how many mutations.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "tests/fuzz/input.h"
#include "tests/random.h"
#include "tests/sanitizer.h"

namespace {

using forge::tests::below;
using Bytes = std::vector<std::uint8_t>;

long mutations() {
  const char* const given = std::getenv("FORGE_FUZZ_RUNS");
  if (given != nullptr) return std::atol(given);
  return forge::tests::kUnderAsan ? 25'000 : 100'000;
}
constexpr std::size_t kLongest = 4096;

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void run(const Bytes& input) {
  const Bytes exact(input);  // no spare capacity behind it
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

void mutate(std::mt19937_64& random, Bytes& input, const Bytes& other) {
  const auto at = below(random, input.size() + 1);
  const auto position = input.begin() + static_cast<std::ptrdiff_t>(at);
  switch (below(random, 5)) {
    case 0:
      input.insert(position, static_cast<std::uint8_t>(random()));
      return;
    case 1:
      if (at < input.size()) input.erase(position);
      return;
    case 2: {  // a piece of another one
      if (other.empty()) return;
      const auto from = below(random, other.size());
      const auto count = std::min(other.size() - from, 1 + below(random, 64));
      const auto first = other.begin() + static_cast<std::ptrdiff_t>(from);
      input.insert(position, first, first + static_cast<std::ptrdiff_t>(count));
      return;
    }
    case 3:
      if (at < input.size()) input[at] ^= static_cast<std::uint8_t>(1U << below(random, 8));
      return;
    default:
      if (at < input.size()) input[at] = static_cast<std::uint8_t>(random());
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::set<std::filesystem::path> paths;
  for (int i = 1; i < argc; ++i) paths.insert(argv[i]);
  if (paths.empty()) {
    for (const auto& entry : std::filesystem::directory_iterator(FORGE_CORPUS)) {
      paths.insert(entry.path());
    }
  }
  std::vector<Bytes> corpus{{}};
  for (const auto& path : paths) run(corpus.emplace_back(read(path)));
  std::cout << paths.size() << " inputs replayed\n";
  if (argc > 1) return 0;

  auto random = forge::tests::seeded();
  const long count = mutations();
  for (long i = 0; i < count; ++i) {
    Bytes input = corpus[below(random, corpus.size())];
    for (auto left = 1 + below(random, 8); left != 0; --left) {
      mutate(random, input, corpus[below(random, corpus.size())]);
    }
    if (input.size() > kLongest) input.resize(kLongest);
    run(input);
  }
  std::cout << count << " mutations of them\n";
  return 0;
}
