// A CUDA runtime without a device, for tests of gpu/cuda: the same functions, over host memory.
//
// It is as strict as the documents are: work is done late, copies must lie in live allocations and
// may not leave a registered region, registrations share no page, and nothing is done twice. It
// counts what is alive, and fails where it is told to.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

namespace forge::gpu::fake_cuda {

inline constexpr const char* kUuid = "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f";

struct Settings {
  int devices = 1;
  int driver = CUDART_VERSION;  ///< 0: none
  int major = 9;
  std::size_t memory = std::size_t{256} << 20;
  bool pools = true;
  bool read_only = true;        ///< what the device says
  bool takes_read_only = true;  ///< what it does
  bool has_kernels = true;
  int fails_at = 0;                      ///< this call, counted from 1, fails; 0: none
  cudaError_t error = cudaErrorUnknown;  ///< with this; if it ends a context, so do all later ones
};

/// Forgets everything and starts anew.
void reset(const Settings& settings = {});
/// Lets the next call that is made fail.
void fail_next(cudaError_t error);

bool lost();  ///< an error has ended the context
int calls();  ///< since reset()
/// What is alive: "streams 1, buffers 2"; empty if nothing is.
std::string alive();
/// Broken rules that no error could tell of, one a line.
std::string broken_rules();

}  // namespace forge::gpu::fake_cuda
