// The model behind the mlp plugin: `depth` square layers of `width`, ReLU between them. How wide and
// how deep is the caller's choice, so that a benchmark can make it as heavy as it likes.
//
// Invariants
//  1. Parameters follow from the shape alone, so every process that makes the model makes the same.
//  2. Each parameter is exact in bf16, f32 and f64: whatever a model computes in, it is the same
//     function, and reference() is what all of them approach.
//  3. A row's result depends on that row alone, bit for bit, on the host as on a device.
#pragma once

#include <forge/tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace forge::mlp {

/// Rows of a batch at most: what the endpoints are registered with.
inline constexpr std::size_t kMostRows = 256;

struct Shape {
  std::size_t width = 0;  ///< of each layer; a multiple of 8, as matrix units want it
  std::size_t depth = 0;  ///< layers
  DType dtype = DType::f32;
};

/// What users say, checked. Throws InvalidArgument: a width that is no multiple of 8 from 8 to
/// 65536, a depth outside of 1 to 1024, a dtype other than "f32", "bf16" and "f64".
Shape make_shape(std::int64_t width, std::int64_t depth, std::string_view dtype);

struct Layer {
  std::vector<float> weights;  ///< [width, width]: row r makes output r
  std::vector<float> bias;     ///< [width]
};
Layer make_layer(const Shape& shape, std::size_t index);

/// The model in float64, for rows that lie one behind the other.
std::vector<double> reference(const Shape& shape, std::span<const double> rows);

float from_bf16(std::uint16_t bits);
/// To the nearest, ties to even; what is no number stays none.
std::uint16_t to_bf16(float value);

/// The elements of a host tensor as float64. Throws InvalidArgument unless it is f32, bf16 or f64.
std::vector<double> to_doubles(const Tensor& tensor);
/// `values` in `to`, rounded to its dtype.
void from_doubles(std::span<const double> values, Tensor& to);

}  // namespace forge::mlp
