// digits-train: trains the digits model from a seed and writes its weights.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "tools/plugins/digits/train.h"

namespace {

using namespace forge::digits;

constexpr int kMaxEpochs = 10'000;
constexpr int kMaxLines = 12;  // of progress

// CLI11 alone would wrap -3 around and cut off what exceeds 64 bits.
std::string seed_problem(const std::string& text) {
  std::uint64_t seed = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, seed);
  if (error == std::errc() && stop == end) return "";
  return "should be a whole number from 0 to 2^64 - 1, not '" + text + "'";
}

void write_weights(const Mlp& model, const std::string& path) {
  errno = 0;
  std::ofstream out(path);
  if (out) model.save(out);
  out.close();
  if (!out)
    throw std::runtime_error("cannot write " + path + ": " +
                             std::generic_category().message(errno));
}

void run(const TrainOptions& options, const std::string& path) {
  using Clock = std::chrono::steady_clock;
  std::printf("digits-train: %zu-%zu-%zu perceptron, %zu images, %zu held out, seed %llu\n\n",
              kPixels, kHidden, kClasses, training_images().size(), held_out_images().size(),
              static_cast<unsigned long long>(options.seed));
  std::printf("%6s %10s %12s %12s %10s\n", "epoch", "loss", "training", "held out", "elapsed");
  const auto start = Clock::now();
  const int stride = std::max(1, (options.epochs + kMaxLines - 1) / kMaxLines);
  const Mlp model = train(options, [&](const EpochReport& report, const Mlp& so_far) {
    if (report.epoch % stride != 0 && report.epoch != options.epochs) return;
    const std::chrono::duration<double> elapsed = Clock::now() - start;
    std::printf("%6d %10.4f %10.2f %% %10.2f %% %8.2f s\n", report.epoch, report.loss,
                100.0 * accuracy(so_far, training_images()),
                100.0 * accuracy(so_far, held_out_images()), elapsed.count());
    std::fflush(stdout);
  });
  write_weights(model, path);
  std::printf("\nwrote %s: %zu parameters, %.2f %% of the held-out images right\n", path.c_str(),
              kParameters, 100.0 * accuracy(model, held_out_images()));
}

}  // namespace

int main(int argc, char** argv) try {
  TrainOptions options;
  std::string path = "weights.txt";
  CLI::App app{"Trains the digits model and writes its weights."};
  app.add_option("--seed", options.seed, "start of the random numbers")
      ->check(seed_problem)
      ->capture_default_str();
  app.add_option("--epochs", options.epochs, "passes over the training images")
      ->check(CLI::Range(1, kMaxEpochs))
      ->capture_default_str();
  app.add_option("--out", path, "file to write")
      ->check([](const std::string& name) { return name.empty() ? "should name a file" : ""; })
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  run(options, path);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "digits-train: %s\n", error.what());
  return 1;
}
