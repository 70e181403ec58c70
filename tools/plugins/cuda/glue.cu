#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "tools/plugins/cuda/glue.h"

namespace forge::cuda {
namespace {

constexpr unsigned kThreads = 256;

unsigned blocks_for(std::size_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

__device__ void store(float* to, float4 values) { *reinterpret_cast<float4*>(to) = values; }
__device__ void store(__nv_bfloat16* to, float4 values) {
  auto* pairs = reinterpret_cast<__nv_bfloat162*>(to);
  pairs[0] = __floats2bfloat162_rn(values.x, values.y);
  pairs[1] = __floats2bfloat162_rn(values.z, values.w);
}

// One thread for four elements of one row.
template <class Out>
__global__ void add_bias_kernel(const float* sums, const float* bias, Out* out, std::size_t count,
                                unsigned width, bool activate) {
  const std::size_t at = 4 * (static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (at >= count) return;
  float4 value = *reinterpret_cast<const float4*>(sums + at);
  const float4 add = *reinterpret_cast<const float4*>(bias + at % width);
  value.x += add.x;
  value.y += add.y;
  value.z += add.z;
  value.w += add.w;
  if (activate) {
    // Not fmaxf, which would turn what is no number into 0.
    value.x = value.x < 0 ? 0 : value.x;
    value.y = value.y < 0 ? 0 : value.y;
    value.z = value.z < 0 ? 0 : value.z;
    value.w = value.w < 0 ? 0 : value.w;
  }
  store(out + at, value);
}

__global__ void most_likely_kernel(const float* logits, const float* bias, std::int32_t* labels,
                                   unsigned rows, unsigned width) {
  const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float* mine = logits + static_cast<std::size_t>(row) * width;
  float best = mine[0] + bias[0];
  unsigned label = 0;
  for (unsigned i = 1; i < width; ++i) {
    const float logit = mine[i] + bias[i];
    if (logit > best) {
      best = logit;
      label = i;
    }
  }
  labels[row] = static_cast<std::int32_t>(label);
}

__global__ void add_one_kernel(float4* values, std::size_t count) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    float4 value = values[i];
    value.x += 1;
    value.y += 1;
    value.z += 1;
    value.w += 1;
    values[i] = value;
  }
}

__global__ void write_wildly_kernel(int* nowhere) { *nowhere = 1; }

}  // namespace

void add_bias(const float* sums, const float* bias, void* out, Precision precision,
              std::size_t rows, std::size_t width, bool activate, cudaStream_t stream) {
  const std::size_t count = rows * width;
  const unsigned blocks = blocks_for(count / 4);
  const auto columns = static_cast<unsigned>(width);
  if (precision == Precision::f32) {
    add_bias_kernel<<<blocks, kThreads, 0, stream>>>(sums, bias, static_cast<float*>(out), count,
                                                     columns, activate);
  } else {
    add_bias_kernel<<<blocks, kThreads, 0, stream>>>(sums, bias, static_cast<__nv_bfloat16*>(out),
                                                     count, columns, activate);
  }
  check(cudaGetLastError(), "launching the kernel that adds a bias");
}

void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream),
        "copying rows on the device");
}

void most_likely(const float* logits, const float* bias, std::int32_t* labels, std::size_t rows,
                 std::size_t width, cudaStream_t stream) {
  most_likely_kernel<<<blocks_for(rows), kThreads, 0, stream>>>(
      logits, bias, labels, static_cast<unsigned>(rows), static_cast<unsigned>(width));
  check(cudaGetLastError(), "launching the kernel that chooses labels");
}

void add_one(float* values, std::size_t count, cudaStream_t stream) {
  constexpr unsigned kBlocks = 1024;  // a few for each multiprocessor
  add_one_kernel<<<kBlocks, kThreads, 0, stream>>>(reinterpret_cast<float4*>(values), count / 4);
  check(cudaGetLastError(), "launching the kernel that adds one");
}

void write_wildly(cudaStream_t stream) {
  write_wildly_kernel<<<1, 1, 0, stream>>>(reinterpret_cast<int*>(std::uintptr_t{1} << 60));
  check(cudaGetLastError(), "launching the kernel that writes wildly");
}

}  // namespace forge::cuda
