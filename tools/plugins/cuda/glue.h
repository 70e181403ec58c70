// The kernels and copies between matrix products. All put work into a stream and throw
// std::runtime_error if that fails; pointers are to device memory, matrices are row-major.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "tools/plugins/cuda/dense.h"

namespace forge::cuda {

/// sums[rows, width] + bias[width], through a ReLU if `activate`, to `out` in that precision; `out`
/// may be `sums`. `width` is a multiple of 4 and the matrices are aligned to 16 bytes.
void add_bias(const float* sums, const float* bias, void* out, Precision precision,
              std::size_t rows, std::size_t width, bool activate, cudaStream_t stream);

/// From one place on the device to another.
void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream);

/// The index of the largest of each row's `width` logits plus bias; the lowest where several are
/// equal.
void most_likely(const float* logits, const float* bias, std::int32_t* labels, std::size_t rows,
                 std::size_t width, cudaStream_t stream);

/// Adds 1 to each of `count` elements, once: reads and writes every byte. `count` is a multiple of
/// 4.
void add_one(float* values, std::size_t count, cudaStream_t stream);

/// Writes to an address that nobody has: the context is lost when this runs.
void write_wildly(cudaStream_t stream);

}  // namespace forge::cuda
