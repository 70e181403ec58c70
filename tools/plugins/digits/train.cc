#include "tools/plugins/digits/train.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

#include "tools/plugins/digits/layers.h"

namespace forge::digits {
namespace {

constexpr std::size_t kBatch = 32;
constexpr float kFirstRate = 1e-2f;  // falls along a cosine to zero at the last step
constexpr float kMomentum = 0.9f;
constexpr float kVariance = 0.999f;
constexpr float kEpsilon = 1e-8f;
constexpr float kWeightDecay = 1e-2f;  // decoupled: AdamW
constexpr float kSmoothing = 0.1f;     // share of the truth that is spread over all ten digits

// Inputs are trained as 0 to 1 and served as 0 to 16. A power of two, so folding it into the hidden
// weights afterwards changes no bit of any product.
constexpr float kInputScale = 1.0f / 16.0f;

using Flat = Eigen::VectorXf;

class Trainer {
 public:
  explicit Trainer(const TrainOptions& options);

  /// Returns the mean loss over the epoch.
  double run_epoch();
  Mlp model() const;

 private:
  float uniform();
  void shuffle();
  void init_weights();
  double run_batch(std::span<const std::size_t> chosen);
  void step();

  const ImageSet& set_ = training_images();
  std::mt19937_64 random_;
  std::vector<std::size_t> order_;
  Flat parameters_ = Flat::Zero(kParameters);
  Flat gradient_ = Flat::Zero(kParameters);
  Flat mean_ = Flat::Zero(kParameters);
  Flat square_ = Flat::Zero(kParameters);
  long steps_ = 0;
  long total_steps_ = 0;
};

Trainer::Trainer(const TrainOptions& options) : random_(options.seed), order_(set_.size()) {
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  total_steps_ = options.epochs * static_cast<long>((set_.size() + kBatch - 1) / kBatch);
  init_weights();
}

// In [-1, 1): the top 24 bits, which a float holds exactly.
float Trainer::uniform() { return static_cast<float>(random_() >> 40) * 0x1p-23f - 1.0f; }

// Fisher-Yates. The modulo's bias, about 2^-53, is of no matter here.
void Trainer::shuffle() {
  for (std::size_t i = order_.size() - 1; i > 0; --i)
    std::swap(order_[i], order_[random_() % (i + 1)]);
}

// He's uniform start for ReLU layers; biases start at zero.
void Trainer::init_weights() {
  const auto fill = [this](std::size_t at, std::size_t count, std::size_t inputs) {
    const float limit = std::sqrt(6.0f / static_cast<float>(inputs));
    for (std::size_t i = at; i < at + count; ++i) parameters_[i] = limit * uniform();
  };
  fill(0, kHidden * kPixels, kPixels);
  fill(kOutputWeightsAt, kClasses * kHidden, kHidden);
}

double Trainer::run_epoch() {
  shuffle();
  double loss = 0.0;
  for (std::size_t at = 0; at < order_.size(); at += kBatch) {
    loss += run_batch(std::span(order_).subspan(at, std::min(kBatch, order_.size() - at)));
    step();
  }
  return loss / static_cast<double>(order_.size());
}

// Leaves the batch's mean gradient in gradient_; returns the sum of its losses.
double Trainer::run_batch(std::span<const std::size_t> chosen) {
  const auto count = static_cast<Eigen::Index>(chosen.size());
  Batch<kPixels> input(kPixels, count);
  for (Eigen::Index i = 0; i < count; ++i) {
    const auto image = set_.image(chosen[i]);
    input.col(i) = kInputScale * Eigen::Map<const Bias<kPixels>>(image.data());
  }
  const ConstLayers layers(parameters_.data());
  Batch<kHidden> hidden = layers.hidden_weights * input;
  hidden = (hidden.colwise() + layers.hidden_bias).cwiseMax(0.0f);
  Batch<kClasses> error = layers.output_weights * hidden;
  error.colwise() += layers.output_bias;
  softmax({error.data(), static_cast<std::size_t>(error.size())});

  // The gradient of this loss at the logits is probability minus (smoothed) truth.
  double loss = 0.0;
  for (Eigen::Index i = 0; i < count; ++i) {
    float& truth = error(set_.labels[chosen[i]], i);
    loss -= std::log(std::max(truth, 1e-12f));
    truth -= 1.0f - kSmoothing;
    error.col(i).array() -= kSmoothing / kClasses;
  }
  error /= static_cast<float>(count);

  Layers gradient(gradient_.data());
  gradient.output_weights.noalias() = error * hidden.transpose();
  gradient.output_bias = error.rowwise().sum();
  Batch<kHidden> back = layers.output_weights.transpose() * error;
  back = (hidden.array() > 0.0f).select(back, 0.0f);
  gradient.hidden_weights.noalias() = back * input.transpose();
  gradient.hidden_bias = back.rowwise().sum();
  return loss;
}

void Trainer::step() {
  const double progress = static_cast<double>(steps_) / static_cast<double>(total_steps_);
  const float rate =
      kFirstRate * static_cast<float>(0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
  ++steps_;
  const auto age = static_cast<float>(steps_);
  const float mean_scale = 1.0f / (1.0f - std::pow(kMomentum, age));
  const float square_scale = 1.0f / (1.0f - std::pow(kVariance, age));
  mean_ = kMomentum * mean_ + (1.0f - kMomentum) * gradient_;
  square_ = kVariance * square_ + (1.0f - kVariance) * gradient_.cwiseAbs2();
  parameters_ *= 1.0f - rate * kWeightDecay;
  parameters_.array() -=
      rate * mean_scale * mean_.array() / ((square_scale * square_.array()).sqrt() + kEpsilon);
}

Mlp Trainer::model() const {
  Flat served = parameters_;
  served.head(kHiddenBiasAt) *= kInputScale;
  return Mlp({served.data(), kParameters});
}

}  // namespace

Mlp train(const TrainOptions& options,
          const std::function<void(const EpochReport&, const Mlp&)>& on_epoch) {
  if (options.epochs < 1) {
    throw std::invalid_argument("epochs is " + std::to_string(options.epochs) +
                                "; training takes at least 1");
  }
  Trainer trainer(options);
  for (int epoch = 1; epoch <= options.epochs; ++epoch) {
    const double loss = trainer.run_epoch();
    if (on_epoch) on_epoch({.epoch = epoch, .loss = loss}, trainer.model());
  }
  return trainer.model();
}

}  // namespace forge::digits
