#include "tools/plugins/cuda/dense.h"

#include <stdexcept>
#include <string>

namespace forge::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what cuBLAS asks for on Hopper

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string(what) + ": " + cublasGetStatusString(status));
}

}  // namespace

Blas::Blas() : workspace_(kWorkspaceBytes) {
  check(cublasCreate(&handle_), "making a cuBLAS handle");
  try {
    check(cublasSetPointerMode(handle_, CUBLAS_POINTER_MODE_HOST), "setting up cuBLAS");
    const auto mode = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    check(cublasSetMathMode(handle_, static_cast<cublasMath_t>(mode)), "setting up cuBLAS");
  } catch (...) {
    (void)cublasDestroy(handle_);
    throw;
  }
}

Blas::~Blas() { (void)cublasDestroy(handle_); }

void Blas::use(cudaStream_t stream) {
  if (chosen_ && stream == stream_) return;
  check(cublasSetStream(handle_, stream), "giving cuBLAS a stream");
  // With a new stream the handle goes back to its default workspace.
  check(cublasSetWorkspace(handle_, workspace_.as<void>(), workspace_.size()),
        "giving cuBLAS its workspace");
  stream_ = stream;
  chosen_ = true;
}

void Blas::multiply(Precision precision, const void* weights, const void* in, float* out,
                    std::size_t rows, std::size_t inputs, std::size_t outputs) {
  // cuBLAS counts columns first: to it, weights is [inputs × outputs] and a row is a column.
  const auto m = static_cast<int>(outputs);
  const auto k = static_cast<int>(inputs);
  const cudaDataType_t operand = precision == Precision::f32 ? CUDA_R_32F : CUDA_R_16BF;
  const float one = 1;
  const float zero = 0;
  for (std::size_t done = 0; done < rows; done += kGroup) {
    const auto* from = static_cast<const std::byte*>(in) + done * inputs * size_of(precision);
    check(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, m, static_cast<int>(kGroup), k, &one,
                       weights, operand, k, from, operand, k, &zero, out + done * outputs,
                       CUDA_R_32F, m, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "multiplying with cuBLAS");
  }
}

}  // namespace forge::cuda
