// The model behind the digits plugin: a perceptron with one hidden layer, 64 pixels -> 64 ReLU ->
// 10 logits, float32. Small on purpose: an inference costs about as much as a request, so a
// benchmark that serves it measures the serving.
//
// Invariants
//  1. A row's logits depend on that row alone, bit for bit within one build: not on the size of the
//     batch, its place in it, or its neighbours. See forward() for what that takes.
//  2. Parameters are finite and never change, so any number of threads may call a const Mlp.
//  3. forward() and classify() allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/plugins/digits/data.h"

namespace forge::digits {

inline constexpr std::size_t kHidden = 64;

// Parameters are one flat vector: hidden weights [kHidden, kPixels], hidden biases, output weights
// [kClasses, kHidden], output biases.
inline constexpr std::size_t kHiddenBiasAt = kHidden * kPixels;
inline constexpr std::size_t kOutputWeightsAt = kHiddenBiasAt + kHidden;
inline constexpr std::size_t kOutputBiasAt = kOutputWeightsAt + kClasses * kHidden;
inline constexpr std::size_t kParameters = kOutputBiasAt + kClasses;

class Mlp {
 public:
  /// Copies kParameters finite values; throws std::invalid_argument for anything else.
  explicit Mlp(std::span<const float> parameters);

  /// Reads what save() wrote. Throws std::runtime_error that begins with `name` and says which
  /// value is wrong.
  static Mlp load(std::istream& in, std::string_view name);
  static Mlp load_file(const std::string& path);

  /// The committed weights (weights.txt), compiled in.
  static Mlp trained();

  /// One line of header, then one line per weight row or bias vector, in the shortest decimals that
  /// read back as the same floats.
  void save(std::ostream& out) const;

  /// `images` is [n, 64] with pixels 0 to 16, `logits` is [n, 10]; both row-major. Throws
  /// std::invalid_argument when the two sizes do not name the same n.
  void forward(std::span<const float> images, std::span<float> logits) const;

  /// The most likely digit of each image: `images` is [n, 64], `labels` is [n].
  void classify(std::span<const float> images, std::span<std::uint8_t> labels) const;

  std::span<const float> parameters() const { return parameters_; }

 private:
  std::vector<float> parameters_;
};

/// Turns [n, 10] logits into probabilities, in place.
void softmax(std::span<float> logits);

/// The index of the largest logit; the lowest one where several are equal.
std::uint8_t most_likely(std::span<const float, kClasses> logits);

/// The share of `set` that `model` classifies correctly, 0 to 1.
double accuracy(const Mlp& model, const ImageSet& set);

}  // namespace forge::digits
