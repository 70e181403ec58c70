// The mlp plugins on the host backend: values, batches, and neighbours that do not show. Also the one
// for CUDA, which needs neither a driver nor a device for that.
#include <forge/forge.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "bench/forge_bench/stats.h"
#include "tools/plugins/mlp/model.h"
#include "tools/plugins/mlp/serving.h"

namespace forge::mlp {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using RunRow = Tensor(Tensor);

constexpr std::int64_t kWidth = 48;
constexpr std::int64_t kDepth = 3;

class MlpPlugin : public ::testing::TestWithParam<std::string> {
 protected:
  Service serve(const std::string& dtype, int batch_size) {
    EndpointOptions run = serving();
    run.batch_size = batch_size;
    run.batch_timeout = 5ms;
    return plugin.actor("Mlp")
        .options({.endpoints = {{"run", run}}})
        .as_service(kWidth, kDepth, dtype);
  }
  std::vector<double> random_row() {
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::vector<double> row(kWidth);
    // bf16 has it exactly, so every dtype is asked the same.
    std::ranges::generate(row,
                          [&] { return from_bf16(to_bf16(static_cast<float>(uniform(random)))); });
    return row;
  }
  static Tensor filled(const Endpoint<RunRow>& run, const std::string& dtype,
                       const std::vector<double>& row) {
    Tensor tensor = run.allocate(make_shape(kWidth, kDepth, dtype).dtype, {kWidth});
    from_doubles(row, tensor);
    return tensor;
  }

  std::mt19937 random{1};
  Controller controller{{.log_level = LogLevel::error}};
  const char* folder = std::getenv("FORGE_PLUGIN_DIR");
  Plugin plugin = controller.load((folder == nullptr ? std::string(".") : std::string(folder)) +
                                  "/lib" + GetParam() + ".so");
};
INSTANTIATE_TEST_SUITE_P(Host, MlpPlugin, ::testing::Values("mlp"));
#ifdef FORGE_CUDA_PLUGINS
INSTANTIATE_TEST_SUITE_P(Cuda, MlpPlugin, ::testing::Values("mlp_cuda"));
#endif

TEST_P(MlpPlugin, AnswersWhatFloat64Does) {
  for (const auto& [dtype, most] : {std::pair{"f32", 1e-5}, {"bf16", 1e-2}, {"f64", 1e-13}}) {
    const Service service = serve(dtype, 16);
    const auto run = service.endpoint<RunRow>("run");
    service.endpoint<void(bool)>("poison").route(true).get();
    for (const std::size_t rows : {1, 2, 7, 16, 40}) {
      std::vector<double> asked;
      std::vector<Future<Tensor>> futures;
      for (std::size_t i = 0; i < rows; ++i) {
        const std::vector<double> row = random_row();
        asked.insert(asked.end(), row.begin(), row.end());
        futures.push_back(run.route(filled(run, dtype, row)));
      }
      std::vector<double> answered;
      for (auto& future : futures) {
        const std::vector<double> row = to_doubles(future.get());
        answered.insert(answered.end(), row.begin(), row.end());
      }
      const auto expected = reference(make_shape(kWidth, kDepth, dtype), asked);
      EXPECT_LE(bench::relative_error(answered, expected), most)
          << dtype << ", " << rows << " rows";
    }
  }
}

TEST_P(MlpPlugin, ARowDoesNotShowWhoWasNextToIt) {
  const Service service = serve("f32", 64);
  const auto run = service.endpoint<RunRow>("run");
  const std::vector<double> mine = random_row();
  const Tensor alone = run.route(filled(run, "f32", mine)).get();
  for (const std::size_t rows : {2, 5, 8, 9, 33, 64}) {
    std::vector<Future<Tensor>> futures;
    for (std::size_t i = 0; i < rows; ++i) {
      futures.push_back(run.route(filled(run, "f32", i == rows / 2 ? mine : random_row())));
    }
    for (std::size_t i = 0; i < rows; ++i) {
      const Tensor answer = futures[i].get();
      if (i != rows / 2) continue;
      EXPECT_TRUE(std::ranges::equal(answer.bytes(), alone.bytes())) << rows;
    }
  }
}

TEST_P(MlpPlugin, SweepsRowsOfAnyLength) {
  const Service service = plugin.actor("Sweep").as_service(3);
  const auto run = service.endpoint<RunRow>("run");
  Tensor row = run.allocate(DType::f32, {1024});
  std::ranges::fill(row.span<float>(), 2.0F);
  const Tensor answer = run.route(row).get();
  EXPECT_EQ(answer.size(), 16U);
  for (const float value : answer.span<float>()) EXPECT_EQ(value, 5.0F);
}

TEST_P(MlpPlugin, WrongRowsAndShapesAreSaidToBe) {
  const Service service = serve("f32", 1);
  const auto run = service.endpoint<RunRow>("run");
  const auto said = [&](const Tensor& row) {
    auto outcome = run.route(row).result();
    return outcome.has_value() ? std::string() : std::string(outcome.error().what());
  };
  EXPECT_THAT(said(Tensor(DType::f32, {kWidth + 1})), HasSubstr("rows of 48 f32"));
  EXPECT_THAT(said(Tensor(DType::f64, {kWidth})), HasSubstr("rows of 48 f32"));
  EXPECT_THROW(
      plugin.actor("Mlp").as_service(std::int64_t{12}, std::int64_t{1}, std::string("f32")), Error);
}

TEST_P(MlpPlugin, WithoutADeviceThereIsNothingToSubmitOrLose) {
  const Service service = serve("f32", 1);
  EXPECT_EQ(service.endpoint<int()>("device").route().get(), -1);
  const auto cost = service.endpoint<double(std::int64_t, int, bool)>("submission_ns");
  auto outcome = cost.route(1, 1, true).result();
  ASSERT_FALSE(outcome.has_value());
  EXPECT_THAT(outcome.error().what(), HasSubstr("with_gpus"));
  auto lost = service.endpoint<Tensor()>("write_wildly").route().result();
  ASSERT_FALSE(lost.has_value());
  EXPECT_THAT(lost.error().what(), HasSubstr("with_gpus"));
}

}  // namespace
}  // namespace forge::mlp
