#include "tools/plugins/digits/model.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <fstream>
#include <istream>
#include <iterator>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "tools/plugins/digits/layers.h"

namespace forge::digits {
namespace {

constexpr std::string_view kTrainedWeights =
#include "weights.inc"  // weights.txt as a raw string literal, made by CMake
    ;

// The first words of a weights file: what it is, then the width of each layer.
constexpr std::string_view kMagic = "forge-digits-mlp";
constexpr std::array<std::size_t, 3> kWidths = {kPixels, kHidden, kClasses};

// Eigen multiplies full groups of 4 columns (8 in newer releases) with one kernel and the columns
// that are left over with others, down to matrix x vector, and these round differently. So
// forward() only ever hands it whole groups: then each image goes through the same instructions,
// whatever surrounds it. A lone image pays for the seven empty ones in its group.
constexpr std::size_t kGroup = 8;
constexpr std::size_t kChunk = 8 * kGroup;  // bounds the hidden layer's place on the stack: 16 KiB

// `count` is a multiple of kGroup and at most kChunk.
void forward_groups(const ConstLayers& layers, const float* images, float* logits,
                    std::size_t count) {
  const auto cols = static_cast<Eigen::Index>(count);
  alignas(64) std::array<float, kHidden * kChunk> workspace;
  Eigen::Map<Batch<kHidden>> hidden(workspace.data(), kHidden, cols);
  const Eigen::Map<const Batch<kPixels>> input(images, kPixels, cols);
  Eigen::Map<Batch<kClasses>> output(logits, kClasses, cols);
  hidden.noalias() = layers.hidden_weights * input;
  hidden = (hidden.colwise() + layers.hidden_bias).cwiseMax(0.0f);
  output.noalias() = layers.output_weights * hidden;
  output.colwise() += layers.output_bias;
}

[[noreturn]] void reject(std::string_view name, const std::string& problem) {
  throw std::runtime_error(std::string(name) + ": " + problem +
                           "; write a fresh file with digits-train --out FILE");
}

template <class Number>
bool parse(const std::string& word, Number& value) {
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, value);
  return error == std::errc() && stop == end;
}

void read_header(std::istream& in, std::string_view name) {
  std::string word;
  if (!(in >> word) || word != kMagic) {
    reject(name, "not a digits weights file (it should begin with '" + std::string(kMagic) + "')");
  }
  for (const std::size_t expected : kWidths) {
    std::size_t width = 0;
    if (!(in >> word) || !parse(word, width) || width != expected) {
      reject(name, "layer widths should be 64 64 10, but one of them is '" + word + "'");
    }
  }
}

void write_rows(std::ostream& out, std::span<const float> values, std::size_t width) {
  std::array<char, 32> text;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), values[i]);
    out.write(text.data(), end - text.data());
    out.put((i + 1) % width == 0 ? '\n' : ' ');
  }
}

}  // namespace

Mlp::Mlp(std::span<const float> parameters) : parameters_(parameters.begin(), parameters.end()) {
  if (parameters_.size() != kParameters) {
    throw std::invalid_argument("a digits model has " + std::to_string(kParameters) +
                                " parameters, not " + std::to_string(parameters_.size()));
  }
  for (std::size_t i = 0; i < kParameters; ++i) {
    if (!std::isfinite(parameters_[i])) {
      throw std::invalid_argument("parameter " + std::to_string(i + 1) + " is not a finite number");
    }
  }
}

Mlp Mlp::load(std::istream& in, std::string_view name) {
  read_header(in, name);
  std::vector<float> parameters(kParameters);
  std::string word;
  for (std::size_t i = 0; i < kParameters; ++i) {
    const auto which = [i] {
      return "value " + std::to_string(i + 1) + " of " + std::to_string(kParameters);
    };
    if (!(in >> word)) reject(name, "ends before " + which());
    // Not operator>>: that would read "0.5" by the host program's locale.
    if (!parse(word, parameters[i]) || !std::isfinite(parameters[i])) {
      reject(name, which() + " is '" + word + "', not a finite number");
    }
  }
  if (in >> word) reject(name, "goes on after the last value with '" + word + "'");
  return Mlp(parameters);
}

Mlp Mlp::load_file(const std::string& path) {
  std::ifstream in(path);
  if (!in) reject(path, "cannot be opened: " + std::generic_category().message(errno));
  return load(in, path);
}

Mlp Mlp::trained() {
  std::istringstream in{std::string(kTrainedWeights)};
  return load(in, "weights.txt");
}

void Mlp::save(std::ostream& out) const {
  out << kMagic;
  for (const std::size_t width : kWidths) out << ' ' << std::to_string(width);
  out << '\n';
  const std::span<const float> all(parameters_);
  write_rows(out, all.first(kHiddenBiasAt), kPixels);
  write_rows(out, all.subspan(kHiddenBiasAt, kHidden), kHidden);
  write_rows(out, all.subspan(kOutputWeightsAt, kClasses * kHidden), kHidden);
  write_rows(out, all.subspan(kOutputBiasAt), kClasses);
}

void Mlp::forward(std::span<const float> images, std::span<float> logits) const {
  const std::size_t count = images.size() / kPixels;
  if (images.size() != count * kPixels || logits.size() != count * kClasses) {
    throw std::invalid_argument("forward needs [n, 64] pixels and [n, 10] logits, not " +
                                std::to_string(images.size()) + " and " +
                                std::to_string(logits.size()) + " values");
  }
  const ConstLayers layers(parameters_.data());
  const std::size_t whole = count - count % kGroup;
  for (std::size_t done = 0; done < whole; done += kChunk) {
    forward_groups(layers, images.data() + done * kPixels, logits.data() + done * kClasses,
                   std::min(kChunk, whole - done));
  }
  if (whole == count) return;
  std::array<float, kGroup * kPixels> padded{};
  std::array<float, kGroup * kClasses> answers;
  std::ranges::copy(images.subspan(whole * kPixels), padded.begin());
  forward_groups(layers, padded.data(), answers.data(), kGroup);
  std::copy_n(answers.begin(), (count - whole) * kClasses, logits.begin() + whole * kClasses);
}

void Mlp::classify(std::span<const float> images, std::span<std::uint8_t> labels) const {
  if (images.size() != labels.size() * kPixels) {
    throw std::invalid_argument("classify needs [n, 64] pixels and [n] labels, not " +
                                std::to_string(images.size()) + " and " +
                                std::to_string(labels.size()) + " values");
  }
  std::array<float, kChunk * kClasses> logits;
  for (std::size_t done = 0; done < labels.size(); done += kChunk) {
    const std::size_t count = std::min(kChunk, labels.size() - done);
    forward(images.subspan(done * kPixels, count * kPixels),
            std::span(logits).first(count * kClasses));
    for (std::size_t i = 0; i < count; ++i) {
      labels[done + i] =
          most_likely(std::span<const float, kClasses>(logits.data() + i * kClasses, kClasses));
    }
  }
}

void softmax(std::span<float> logits) {
  for (std::size_t at = 0; at + kClasses <= logits.size(); at += kClasses) {
    Eigen::Map<Bias<kClasses>> row(logits.data() + at);
    row = (row.array() - row.maxCoeff()).exp();  // the largest becomes 1: no overflow
    row /= row.sum();
  }
}

std::uint8_t most_likely(std::span<const float, kClasses> logits) {
  return static_cast<std::uint8_t>(std::distance(logits.begin(), std::ranges::max_element(logits)));
}

double accuracy(const Mlp& model, const ImageSet& set) {
  std::vector<std::uint8_t> labels(set.size());
  model.classify(set.pixels, labels);
  std::size_t correct = 0;
  for (std::size_t i = 0; i < set.size(); ++i) correct += labels[i] == set.labels[i] ? 1 : 0;
  return static_cast<double>(correct) / static_cast<double>(set.size());
}

}  // namespace forge::digits
