// The model behind the mlp plugin: the same function in every dtype and every process.
#include "tools/plugins/mlp/model.h"

#include <forge/error.h>
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <vector>

namespace forge::mlp {
namespace {

TEST(MlpModel, ParametersAreExactInEveryDtype) {
  for (const std::int64_t width : {8, 64, 1000}) {
    const Shape shape = make_shape(width, 3, "f32");
    for (std::size_t i = 0; i < shape.depth; ++i) {
      const Layer layer = make_layer(shape, i);
      ASSERT_EQ(layer.weights.size(), shape.width * shape.width);
      for (const auto& values : {layer.weights, layer.bias}) {
        for (const float value : values) ASSERT_EQ(from_bf16(to_bf16(value)), value);
      }
    }
  }
}

TEST(MlpModel, LayersDifferAndAreMadeAlikeEveryTime) {
  const Shape shape = make_shape(32, 4, "f32");
  EXPECT_EQ(make_layer(shape, 1).weights, make_layer(shape, 1).weights);
  EXPECT_NE(make_layer(shape, 1).weights, make_layer(shape, 2).weights);
  EXPECT_NE(make_layer(shape, 1).bias, make_layer(shape, 2).bias);
}

TEST(MlpModel, ReferenceIsTheModelWrittenOut) {
  const Shape shape = make_shape(8, 2, "f64");
  const std::vector<double> x = {1, -1, 0.5, 2, -2, 0, 3, -0.25};
  std::vector<double> values = x;
  for (std::size_t i = 0; i < shape.depth; ++i) {
    const Layer layer = make_layer(shape, i);
    std::vector<double> next(shape.width);
    for (std::size_t row = 0; row < shape.width; ++row) {
      next[row] = layer.bias[row];
      for (std::size_t at = 0; at < shape.width; ++at) {
        next[row] += layer.weights[row * shape.width + at] * values[at];
      }
      if (i + 1 < shape.depth) next[row] = std::max(next[row], 0.0);
    }
    values = next;
  }
  const std::vector<double> answer = reference(shape, x);
  ASSERT_EQ(answer.size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(answer[i], values[i], 1e-12);
}

TEST(MlpModel, DeepModelsNeitherVanishNorOverflow) {
  const Shape shape = make_shape(256, 32, "f32");
  const std::vector<double> x(shape.width, 0.5);
  double size = 0;
  for (const double value : reference(shape, x)) size += value * value;
  EXPECT_GT(std::sqrt(size), 1e-6);
  EXPECT_LT(std::sqrt(size), 1e9);
}

TEST(MlpModel, RoundsToTheNearestBf16) {
  struct Case {
    float value;
    float rounded;
  };
  for (const Case& one : {Case{1, 1},
                          {1 + 1 / 256.0F, 1},
                          {1 + 3 / 256.0F, 1 + 1 / 64.0F},
                          {1 + 1 / 128.0F, 1 + 1 / 128.0F},
                          {-0.0F, 0},
                          {3.4e38F, INFINITY}}) {
    EXPECT_EQ(from_bf16(to_bf16(one.value)), one.rounded) << one.value;
  }
  EXPECT_TRUE(std::isnan(from_bf16(to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(MlpModel, SaysWhatIsWrongWithAShape) {
  EXPECT_THROW(make_shape(12, 1, "f32"), InvalidArgument);
  EXPECT_THROW(make_shape(0, 1, "f32"), InvalidArgument);
  EXPECT_THROW(make_shape(-8, 1, "f32"), InvalidArgument);
  EXPECT_THROW(make_shape(8, 0, "f32"), InvalidArgument);
  EXPECT_THROW(make_shape(8, 1, "f16"), InvalidArgument);
}

}  // namespace
}  // namespace forge::mlp
