// What the clients of `forge-bench gpu` ask, and how they know that an answer is right. Each input
// lies in a row of the endpoint's next batch, so that it is written once.
#pragma once

#include <forge/service.h>

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "tools/plugins/mlp/model.h"

namespace forge::bench {

using RowEndpoint = Endpoint<Tensor(Tensor)>;

/// Rows for a model and what float64 makes of them: made once, read by all clients.
struct MlpRows {
  /// `count` rows, uniform in ±1 and rounded to the model's dtype.
  MlpRows(const mlp::Shape& shape, std::size_t count, std::uint64_t seed);

  std::span<const double> row(std::size_t i) const { return part(values, i); }
  std::span<const double> answer(std::size_t i) const { return part(answers, i); }

  mlp::Shape shape;
  std::size_t count;
  std::vector<double> values;   // [count, width]
  std::vector<double> answers;  // likewise

 private:
  std::span<const double> part(const std::vector<double>& all, std::size_t i) const {
    return std::span(all).subspan(i * shape.width, shape.width);
  }
};

/// How far from float64 an answer may be: what the dtype's rounding makes of it, and some.
double tolerance(DType dtype);

/// One row of the model after the other. A wrong answer is one of another row too.
class MlpWork {
 public:
  using Answer = Tensor;
  MlpWork(RowEndpoint run, std::shared_ptr<const MlpRows> rows);

  Future<Tensor> send(std::uint64_t number);
  bool check(std::uint64_t number, const Tensor& answer) const;

 private:
  RowEndpoint run_;
  std::shared_ptr<const MlpRows> rows_;
  std::vector<Tensor> ready_;  // the rows as bytes, to be copied from
};

/// Rows that carry their number to a Sweep of `passes` and back.
class SweepWork {
 public:
  using Answer = Tensor;
  SweepWork(RowEndpoint run, std::int64_t width, int passes);

  Future<Tensor> send(std::uint64_t number);
  bool check(std::uint64_t number, const Tensor& answer) const;

 private:
  static float mark(std::uint64_t number) { return static_cast<float>(number % 4096); }

  RowEndpoint run_;
  std::int64_t width_;
  int passes_;
  std::vector<float> noise_;
  std::uint64_t filled_ = 0;
};

}  // namespace forge::bench
