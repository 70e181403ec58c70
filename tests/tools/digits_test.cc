// The digits model: what it promises the plugin (rows independent of their batch), what its numbers
// rest on (a clean split, a seeded trainer), and what it says about a bad weights file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/plugins/digits/data.h"
#include "tools/plugins/digits/model.h"
#include "tools/plugins/digits/train.h"

namespace forge::digits {
namespace {

std::vector<float> logits_of(const Mlp& model, std::span<const float> images) {
  std::vector<float> logits(images.size() / kPixels * kClasses);
  model.forward(images, logits);
  return logits;
}

std::string saved(const Mlp& model) {
  std::ostringstream out;
  model.save(out);
  return out.str();
}

// What load() says about `text`, or "" when it accepts it.
std::string complaint_about(const std::string& text) {
  std::istringstream in(text);
  try {
    Mlp::load(in, "w.txt");
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

// `text` with the word after the four of the header, which is the first weight, replaced.
std::string with_first_weight(const std::string& text, const std::string& word) {
  const std::size_t begin = text.find('\n') + 1;
  const std::size_t end = text.find(' ', begin);
  return text.substr(0, begin) + word + text.substr(end);
}

TEST(DigitsData, SplitIsDisjointAndComplete) {
  EXPECT_EQ(training_images().size(), kImages - kHeldOutImages);
  EXPECT_EQ(held_out_images().size(), kHeldOutImages);
  std::set<std::vector<float>> images;  // no image of the file occurs twice
  for (const ImageSet* set : {&training_images(), &held_out_images()}) {
    ASSERT_EQ(set->pixels.size(), set->size() * kPixels);
    for (std::size_t i = 0; i < set->size(); ++i) {
      const auto image = set->image(i);
      EXPECT_TRUE(images.emplace(image.begin(), image.end()).second) << "image " << i;
    }
  }
  EXPECT_EQ(images.size(), kImages);
}

TEST(DigitsData, ValuesAreInRangeAndEveryDigitIsInBothParts) {
  for (const ImageSet* set : {&training_images(), &held_out_images()}) {
    EXPECT_EQ(*std::ranges::min_element(set->pixels), 0.0f);
    EXPECT_EQ(*std::ranges::max_element(set->pixels), 16.0f);
    const std::set<int> digits(set->labels.begin(), set->labels.end());
    EXPECT_EQ(digits, (std::set<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  }
}

TEST(DigitsModel, CommittedWeightsReadTheHeldOutThird) {
  EXPECT_GE(accuracy(Mlp::trained(), held_out_images()), 0.96);
}

TEST(DigitsModel, LogitsMatchAPlainLoopInDouble) {
  const Mlp model = Mlp::trained();
  const auto weights = model.parameters();
  const auto image = held_out_images().image(7);
  const std::vector<float> logits = logits_of(model, image);
  std::vector<double> hidden(kHidden);
  for (std::size_t h = 0; h < kHidden; ++h) {
    double sum = weights[kHiddenBiasAt + h];
    for (std::size_t p = 0; p < kPixels; ++p) sum += double{weights[h * kPixels + p]} * image[p];
    hidden[h] = std::max(0.0, sum);
  }
  for (std::size_t c = 0; c < kClasses; ++c) {
    double sum = weights[kOutputBiasAt + c];
    for (std::size_t h = 0; h < kHidden; ++h) {
      sum += double{weights[kOutputWeightsAt + c * kHidden + h]} * hidden[h];
    }
    EXPECT_NEAR(logits[c], sum, 1e-4);
  }
}

// Equal to the bit, not nearly: forward() gives the library whole groups only, and this holds it to
// that.
TEST(DigitsModel, ARowDoesNotDependOnItsBatch) {
  const Mlp model = Mlp::trained();
  const std::span<const float> pixels = held_out_images().pixels;
  std::vector<float> singles;
  for (std::size_t i = 0; i < kHeldOutImages; ++i) {
    const auto one = logits_of(model, pixels.subspan(i * kPixels, kPixels));
    singles.insert(singles.end(), one.begin(), one.end());
  }
  for (const std::size_t n : {1, 2, 3, 7, 8, 9, 15, 16, 31, 63, 64, 65, 100, 128, 599}) {
    for (const std::size_t first : {std::size_t{0}, kHeldOutImages - n}) {
      const auto batch = logits_of(model, pixels.subspan(first * kPixels, n * kPixels));
      EXPECT_TRUE(
          std::ranges::equal(batch, std::span(singles).subspan(first * kClasses, n * kClasses)))
          << "batch of " << n << " from image " << first;
    }
  }
}

TEST(DigitsModel, ANeighbourOfNansChangesNothing) {
  const Mlp model = Mlp::trained();
  std::vector<float> batch(2 * kPixels, std::numeric_limits<float>::quiet_NaN());
  const auto image = held_out_images().image(0);
  std::ranges::copy(image, batch.begin() + kPixels);
  const auto both = logits_of(model, batch);
  EXPECT_TRUE(std::ranges::equal(std::span(both).subspan(kClasses), logits_of(model, image)));
}

TEST(DigitsModel, ClassifiesAsTheLargestLogitSays) {
  const Mlp model = Mlp::trained();
  const ImageSet& set = held_out_images();
  std::vector<std::uint8_t> labels(set.size());
  model.classify(set.pixels, labels);
  const auto logits = logits_of(model, set.pixels);
  for (std::size_t i = 0; i < set.size(); ++i) {
    EXPECT_EQ(labels[i],
              most_likely(std::span<const float, kClasses>(&logits[i * kClasses], kClasses)));
  }
}

TEST(DigitsModel, SoftmaxSumsToOneForLargeLogitsToo) {
  std::vector<float> rows(2 * kClasses, 0.0f);
  rows[kClasses + 3] = 1000.0f;
  softmax(rows);
  EXPECT_NEAR(rows[0], 0.1f, 1e-6f);
  EXPECT_NEAR(rows[kClasses + 3], 1.0f, 1e-6f);
}

TEST(DigitsModel, AnswersAnEmptyBatchAndRefusesAMisshapenOne) {
  const Mlp model = Mlp::trained();
  EXPECT_NO_THROW(model.forward({}, {}));
  std::vector<float> images(2 * kPixels);
  std::vector<float> logits(2 * kClasses);
  std::vector<std::uint8_t> labels(3);
  EXPECT_THROW(model.forward(std::span(images).first(kPixels + 1), logits), std::invalid_argument);
  EXPECT_THROW(model.forward(images, std::span(logits).first(kClasses)), std::invalid_argument);
  EXPECT_THROW(model.classify(images, labels), std::invalid_argument);
}

TEST(DigitsWeights, SurviveSavingAndLoading) {
  const Mlp model = Mlp::trained();
  std::istringstream in(saved(model));
  EXPECT_TRUE(std::ranges::equal(Mlp::load(in, "w.txt").parameters(), model.parameters()));
}

TEST(DigitsWeights, BadFilesAreNamedWithWhatIsWrong) {
  const std::string good = saved(Mlp::trained());
  EXPECT_EQ(complaint_about(good), "");
  const std::pair<std::string, std::string> cases[] = {
      {"", "not a digits weights file"},
      {"hello", "not a digits weights file"},
      {"forge-digits-mlp 64 32 10\n", "layer widths should be 64 64 10"},
      {"forge-digits-mlp 64", "layer widths should be 64 64 10"},
      {good.substr(0, good.find('\n')), "ends before value 1 of 4810"},
      {good.substr(0, good.rfind(' ')), "ends before value 4810 of 4810"},
      {with_first_weight(good, "0,5"), "value 1 of 4810 is '0,5'"},
      {with_first_weight(good, "nan"), "value 1 of 4810 is 'nan'"},
      {with_first_weight(good, "1e99"), "value 1 of 4810 is '1e99'"},
      {good + "0.5", "goes on after the last value with '0.5'"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string complaint = complaint_about(text);
    EXPECT_EQ(complaint.find("w.txt: "), 0u) << complaint;
    EXPECT_NE(complaint.find(expected), std::string::npos) << complaint;
  }
}

TEST(DigitsWeights, AMissingFileIsNamed) {
  try {
    Mlp::load_file("no/such/weights.txt");
    FAIL() << "loaded a file that does not exist";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("no/such/weights.txt: cannot be opened"),
              std::string::npos)
        << error.what();
  }
}

TEST(DigitsWeights, WrongParametersAreRefused) {
  std::vector<float> parameters(kParameters, 0.0f);
  EXPECT_NO_THROW(Mlp{parameters});
  parameters[5] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(Mlp{parameters}, std::invalid_argument);
  parameters.pop_back();
  EXPECT_THROW(Mlp{parameters}, std::invalid_argument);
}

TEST(DigitsTrainer, TheSeedDecidesEveryBit) {
  const Mlp first = train({.seed = 7, .epochs = 2});
  const Mlp again = train({.seed = 7, .epochs = 2});
  const Mlp other = train({.seed = 8, .epochs = 2});
  EXPECT_TRUE(std::ranges::equal(first.parameters(), again.parameters()));
  EXPECT_FALSE(std::ranges::equal(first.parameters(), other.parameters()));
}

TEST(DigitsTrainer, ReachesTheCommittedQualityFromTheCommittedSeed) {
  const double fresh = accuracy(train({}), held_out_images());
  EXPECT_GE(fresh, 0.96);
  EXPECT_NEAR(fresh, accuracy(Mlp::trained(), held_out_images()), 0.015);
}

TEST(DigitsTrainer, ReportsEachEpochAndRefusesNone) {
  std::vector<int> epochs;
  train({.epochs = 3}, [&](const EpochReport& report, const Mlp&) {
    epochs.push_back(report.epoch);
    EXPECT_GT(report.loss, 0.0);
  });
  EXPECT_EQ(epochs, (std::vector<int>{1, 2, 3}));
  EXPECT_THROW(train({.epochs = 0}), std::invalid_argument);
}

}  // namespace
}  // namespace forge::digits
