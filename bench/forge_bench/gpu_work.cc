#include "bench/forge_bench/gpu_work.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "bench/forge_bench/stats.h"
#include "tools/plugins/mlp/network.h"

namespace forge::bench {
namespace {

/// What a value becomes when it is stored.
double rounded(double value, DType dtype) {
  if (dtype == DType::f64) return value;
  const auto narrow = static_cast<float>(value);
  return dtype == DType::f32 ? narrow : mlp::from_bf16(mlp::to_bf16(narrow));
}

}  // namespace

MlpRows::MlpRows(const mlp::Shape& of, std::size_t rows, std::uint64_t seed)
    : shape(of), count(rows) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  values.resize(count * shape.width);
  std::ranges::generate(values, [&] { return rounded(uniform(random), shape.dtype); });
  answers = mlp::reference(shape, values);
}

double tolerance(DType dtype) { return dtype == DType::bf16 ? 1e-2 : 1e-5; }

MlpWork::MlpWork(RowEndpoint run, std::shared_ptr<const MlpRows> rows)
    : run_(std::move(run)), rows_(std::move(rows)) {
  for (std::size_t i = 0; i < rows_->count; ++i) {
    ready_.emplace_back(rows_->shape.dtype,
                        std::vector{static_cast<std::int64_t>(rows_->shape.width)});
    mlp::from_doubles(rows_->row(i), ready_.back());
  }
}

Future<Tensor> MlpWork::send(std::uint64_t number) {
  const Tensor& from = ready_[number % rows_->count];
  Tensor row = run_.allocate(from.dtype(), {static_cast<std::int64_t>(rows_->shape.width)});
  std::memcpy(row.span<std::byte>().data(), from.bytes().data(), from.bytes().size());
  return run_.route(row);
}

bool MlpWork::check(std::uint64_t number, const Tensor& answer) const {
  const auto expected = rows_->answer(number % rows_->count);
  if (answer.size() != expected.size() || answer.dtype() != rows_->shape.dtype) return false;
  return relative_error(mlp::to_doubles(answer), expected) <= tolerance(answer.dtype());
}

SweepWork::SweepWork(RowEndpoint run, std::int64_t width, int passes)
    : run_(std::move(run)), width_(width), passes_(passes) {
  std::mt19937 random(1);
  noise_.resize(static_cast<std::size_t>(width));
  std::ranges::generate(noise_, [&] { return static_cast<float>(random() % 4096); });
}

Future<Tensor> SweepWork::send(std::uint64_t number) {
  // The arena hands out the same memory again and again: after these, all of it holds something
  // else than zeros, and what is measured is forge and the card instead of this loop.
  constexpr std::uint64_t kFilled = 1024;
  Tensor row = run_.allocate(DType::f32, {width_});
  const auto values = row.span<float>();
  if (filled_ < kFilled) {
    ++filled_;
    std::ranges::copy(noise_, values.begin());
  }
  std::fill_n(values.begin(), mlp::kSwept, mark(number));
  return run_.route(row);
}

bool SweepWork::check(std::uint64_t number, const Tensor& answer) const {
  const float expected = mark(number) + static_cast<float>(passes_);
  const auto values = answer.span<float>();
  return values.size() == mlp::kSwept &&
         std::ranges::all_of(values, [&](float value) { return value == expected; });
}

}  // namespace forge::bench
