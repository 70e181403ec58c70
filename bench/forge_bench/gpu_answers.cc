// Whether the card computes what float64 on the host does, however calls are put together.
#include <algorithm>
#include <cstring>
#include <random>

#include "bench/forge_bench/gpu_bench.h"
#include "bench/forge_bench/text.h"
#include "tools/plugins/digits/data.h"
#include "tools/plugins/digits/model.h"

namespace forge::bench {
namespace {

constexpr int kMostRows = 64;

struct Answers {
  double worst = 0;         ///< relative error of a batch; not a number once one was
  std::uint64_t moved = 0;  ///< bits of one row that others changed
};

Tensor row_of(const RowEndpoint& run, const MlpRows& rows, std::size_t i) {
  Tensor row = run.allocate(rows.shape.dtype, {static_cast<std::int64_t>(rows.shape.width)});
  mlp::from_doubles(rows.row(i), row);
  return row;
}

/// Batches of 1 to kMostRows rows. All but one row are new in each; the one that stays has another
/// place and other neighbours each time, and must not show it.
Answers ask(const Service& service, const mlp::Shape& shape, std::uint64_t seed) {
  const std::size_t count = static_cast<std::size_t>(kMostRows) * (kMostRows + 1) / 2;
  const MlpRows rows(shape, count, seed);
  const auto run = service.endpoint<Tensor(Tensor)>("run");
  Answers result;
  Tensor first;
  std::size_t next = 1;
  for (std::size_t n = 1; n <= kMostRows; ++n) {
    const std::size_t at = n / 2;
    std::vector<std::size_t> asked;
    std::vector<Future<Tensor>> futures;
    for (std::size_t i = 0; i < n; ++i) {
      asked.push_back(i == at ? 0 : next++);
      futures.push_back(run.route(row_of(run, rows, asked.back())));
    }
    std::vector<double> values;
    std::vector<double> expected;
    for (std::size_t i = 0; i < n; ++i) {
      const Tensor answer = futures[i].get();
      const auto numbers = mlp::to_doubles(answer);
      values.insert(values.end(), numbers.begin(), numbers.end());
      const auto right = rows.answer(asked[i]);
      expected.insert(expected.end(), right.begin(), right.end());
      if (i != at) continue;
      if (n == 1) first = answer;
      result.moved += std::ranges::equal(answer.bytes(), first.bytes()) ? 0 : 1;
    }
    const double error = relative_error(values, expected);
    if (!(error <= result.worst)) result.worst = error;
    if (error != error) break;
  }
  return result;
}

Bar digits_check(GpuBench& bench) {
  const Service service = bench.digits();
  const auto classify = service.endpoint<int(Tensor)>("classify_tensor");
  const auto& images = digits::held_out_images();
  std::vector<std::uint8_t> expected(images.size());
  digits::Mlp::trained().classify(images.pixels, expected);
  std::vector<Future<int>> futures;
  for (std::size_t i = 0; i < images.size(); ++i) {
    Tensor row = classify.allocate(DType::f32, {digits::kPixels});
    std::ranges::copy(images.image(i), row.span<float>().begin());
    futures.push_back(classify.route(row));
  }
  double different = 0;
  for (std::size_t i = 0; i < futures.size(); ++i) different += futures[i].get() != expected[i];
  Bar check{.name = "digits: labels that differ from the host's", .target = "none"};
  check.measured = text("%.0f", different);
  check.note = text("of %zu held-out images", images.size());
  return at_most(std::move(check), different, 0);
}

}  // namespace

std::vector<Bar> answer_checks(GpuBench& bench) {
  std::vector<Bar> checks;
  std::uint64_t moved = 0;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const mlp::Shape shape{bench.width(512), 4, dtype};
    const Service service = bench.mlp(shape, batches_of(kMostRows, 4096, kMostRows));
    service.endpoint<void(bool)>("poison").route(true).get();
    const Answers answers = ask(service, shape, bench.options().seed);
    const double most = tolerance(dtype);
    Bar check{.name = "mlp " + std::string(to_string(dtype)) + " against float64, batch 1 to 64",
              .target = text("error ≤ %.0e", most)};
    check.measured = text("%.1e", answers.worst);
    check.note = "‖out − ref‖ / ‖ref‖ of the worst batch; outputs poisoned before each";
    checks.push_back(at_most(std::move(check), answers.worst, most));
    moved += answers.moved;
  }
  Bar check{.name = "a row among others: bits that change", .target = "none"};
  check.measured = text("%llu", static_cast<unsigned long long>(moved));
  check.note = "another place, other neighbours, another batch size each time";
  checks.push_back(at_most(std::move(check), static_cast<double>(moved), 0));
  checks.push_back(digits_check(bench));
  return checks;
}

}  // namespace forge::bench
