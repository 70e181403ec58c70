#include "tools/plugins/mlp/model.h"

#include <forge/error.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "tools/plugins/mlp/layers.h"

namespace forge::mlp {
namespace {

/// SplitMix64: the `index`-th number of the sequence, without the ones before it.
std::uint64_t mixed(std::uint64_t index) {
  std::uint64_t z = (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// Signed bytes over 128, times a power of two: eight significant bits, which bf16 has.
std::vector<float> bytes_times(float scale, std::uint64_t sequence, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; i += 8) {
    const std::uint64_t word = mixed((sequence << 40) + i / 8);
    for (std::size_t at = i; at < std::min(i + 8, count); ++at) {
      const auto byte = static_cast<std::int8_t>(word >> (8 * (at - i)));
      values[at] = scale * static_cast<float>(byte) / 128.0F;
    }
  }
  return values;
}

DType parse_dtype(std::string_view name) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    if (to_string(dtype) == name) return dtype;
  }
  throw InvalidArgument("an mlp of dtype '" + std::string(name) + "'; there are f32, bf16 and f64");
}

[[noreturn]] void throw_bad_dtype(DType dtype) {
  throw InvalidArgument("a tensor of " + std::string(to_string(dtype)) +
                        "; the rows of an mlp are f32, bf16 or f64");
}

}  // namespace

Shape make_shape(std::int64_t width, std::int64_t depth, std::string_view dtype) {
  if (width < 8 || width > 65536 || width % 8 != 0) {
    throw InvalidArgument("an mlp of width " + std::to_string(width) +
                          "; use a multiple of 8 up to 65536");
  }
  if (depth < 1 || depth > 1024) {
    throw InvalidArgument("an mlp of depth " + std::to_string(depth) + "; use 1 to 1024 layers");
  }
  return {static_cast<std::size_t>(width), static_cast<std::size_t>(depth), parse_dtype(dtype)};
}

Layer make_layer(const Shape& shape, std::size_t index) {
  // Uniform in ±√(6 / width) keeps the size of what goes through ReLUs; the next power of two
  // keeps it well enough, and exact.
  const float limit = std::sqrt(6.0F / static_cast<float>(shape.width));
  const float scale = std::exp2(std::round(std::log2(limit)));
  return {bytes_times(scale, 2 * index, shape.width * shape.width),
          bytes_times(0.125F, 2 * index + 1, shape.width)};
}

std::vector<double> reference(const Shape& shape, std::span<const double> rows) {
  if (rows.size() % shape.width != 0) {
    throw InvalidArgument(std::to_string(rows.size()) + " values are no rows of " +
                          std::to_string(shape.width));
  }
  const auto width = static_cast<Eigen::Index>(shape.width);
  const auto count = static_cast<Eigen::Index>(rows.size() / shape.width);
  Columns<double> values = Eigen::Map<const Columns<double>>(rows.data(), width, count);
  for (std::size_t i = 0; i < shape.depth; ++i) {
    const Weights<double> layer(make_layer(shape, i), shape.width);
    values = layer.forward(values, i + 1 < shape.depth);
  }
  return {values.data(), values.data() + values.size()};
}

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

std::vector<double> to_doubles(const Tensor& tensor) {
  std::vector<double> values(tensor.size());
  if (tensor.dtype() == DType::f32) {
    std::ranges::copy(tensor.span<float>(), values.begin());
  } else if (tensor.dtype() == DType::f64) {
    std::ranges::copy(tensor.span<double>(), values.begin());
  } else if (tensor.dtype() == DType::bf16) {
    std::ranges::transform(tensor.span<std::uint16_t>(), values.begin(), from_bf16);
  } else {
    throw_bad_dtype(tensor.dtype());
  }
  return values;
}

void from_doubles(std::span<const double> values, Tensor& to) {
  if (values.size() != to.size()) {
    throw InvalidArgument(std::to_string(values.size()) + " values for a tensor of " +
                          std::to_string(to.size()));
  }
  const auto as_float = [](double value) { return static_cast<float>(value); };
  if (to.dtype() == DType::f32) {
    std::ranges::transform(values, to.span<float>().begin(), as_float);
  } else if (to.dtype() == DType::f64) {
    std::ranges::copy(values, to.span<double>().begin());
  } else if (to.dtype() == DType::bf16) {
    std::ranges::transform(values, to.span<std::uint16_t>().begin(),
                           [&](double value) { return to_bf16(as_float(value)); });
  } else {
    throw_bad_dtype(to.dtype());
  }
}

}  // namespace forge::mlp
