// The digits plugins, served on the host: batches answer what the model in this process answers, one
// by one. Also the one for CUDA, which needs neither a driver nor a device for that.
#include <forge/forge.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "tools/plugins/digits/data.h"
#include "tools/plugins/digits/model.h"
#include "tools/plugins/digits/serving.h"

namespace forge::digits {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Classify = int(std::vector<float>);
using ClassifyTensor = int(Tensor);

std::string plugin_path(const std::string& name) {
  const char* folder = std::getenv("FORGE_PLUGIN_DIR");
  return (folder == nullptr ? std::string(".") : std::string(folder)) + "/lib" + name + ".so";
}

class DigitsPlugin : public ::testing::TestWithParam<std::string> {
 protected:
  /// A service whose batches have this size.
  Service serve(int batch_size) {
    EndpointOptions options = serving();
    options.batch_size = batch_size;
    options.batch_timeout = 5ms;
    return plugin.actor("Digits")
        .options({.endpoints = {{"classify", options}, {"classify_tensor", options}}})
        .as_service();
  }
  static std::vector<float> image(std::size_t i) {
    const auto pixels = held_out_images().image(i);
    return {pixels.begin(), pixels.end()};
  }
  /// What the model says here.
  static std::vector<int> expected() {
    std::vector<std::uint8_t> labels(held_out_images().size());
    Mlp::trained().classify(held_out_images().pixels, labels);
    return {labels.begin(), labels.end()};
  }

  Controller controller{{.log_level = LogLevel::error}};
  Plugin plugin = controller.load(plugin_path(GetParam()));
};
INSTANTIATE_TEST_SUITE_P(Host, DigitsPlugin, ::testing::Values("digits"));
#ifdef FORGE_CUDA_PLUGINS
INSTANTIATE_TEST_SUITE_P(Cuda, DigitsPlugin, ::testing::Values("digits_cuda"));
#endif

TEST_P(DigitsPlugin, AnswersAlikeWhateverTheBatch) {
  for (const int batch_size : {1, 7, 32, 256}) {
    const Service service = serve(batch_size);
    const auto classify = service.endpoint<Classify>("classify");
    std::vector<Future<int>> futures;
    for (std::size_t i = 0; i < kHeldOutImages; ++i) futures.push_back(classify.route(image(i)));
    std::vector<int> labels;
    for (auto& future : futures) labels.push_back(future.get());
    EXPECT_EQ(labels, expected()) << "in batches of " << batch_size;
  }
}

TEST_P(DigitsPlugin, ReadsTensorsWhereTheyLie) {
  for (const int batch_size : {1, 32}) {
    const Service service = serve(batch_size);
    const auto classify = service.endpoint<ClassifyTensor>("classify_tensor");
    std::vector<Future<int>> futures;
    for (std::size_t i = 0; i < 100; ++i) {
      Tensor tensor = service.allocate(DType::f32, {8, 8});
      std::ranges::copy(image(i), tensor.span<float>().begin());
      futures.push_back(classify.route(tensor));
    }
    const std::vector<int> labels = expected();
    for (std::size_t i = 0; i < futures.size(); ++i) EXPECT_EQ(futures[i].get(), labels[i]) << i;
  }
}

TEST_P(DigitsPlugin, AnImageOfAnotherSizeFailsAlone) {
  const Service service = serve(3);
  const auto classify = service.endpoint<Classify>("classify");
  auto good = classify.route(image(0));
  auto bad = classify.route(std::vector<float>(63));
  auto also_good = classify.route(image(1));
  EXPECT_EQ(good.get(), expected()[0]);
  EXPECT_EQ(also_good.get(), expected()[1]);
  const auto result = bad.result();
  ASSERT_FALSE(result.has_value());
  EXPECT_THAT(result.error().what(), HasSubstr("an image of 63 pixels; send 64"));
}

TEST_P(DigitsPlugin, ATensorOfAnotherSizeFailsAlone) {
  const Service service = serve(2);
  const auto classify = service.endpoint<ClassifyTensor>("classify_tensor");
  Tensor image = service.allocate(DType::f32, {64});
  std::ranges::copy(held_out_images().image(0), image.span<float>().begin());
  auto good = classify.route(image);
  auto bad = classify.route(service.allocate(DType::f32, {63}));
  EXPECT_EQ(good.get(), expected()[0]);
  EXPECT_FALSE(bad.result().has_value());
}

TEST_P(DigitsPlugin, ATensorOfAnotherKindIsToldWhatToBe) {
  const Service service = serve(1);
  const auto classify = service.endpoint<ClassifyTensor>("classify_tensor");
  const auto result = classify.route(service.allocate(DType::f64, {64})).result();
  ASSERT_FALSE(result.has_value());
  EXPECT_THAT(result.error().what(), HasSubstr("send 64 of them as f32"));
}

}  // namespace
}  // namespace forge::digits
