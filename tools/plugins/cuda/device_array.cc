#include "tools/plugins/cuda/device_array.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace forge::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next call that looks would take it for its own
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(status) + ", " +
                           cudaGetErrorString(status));
}

DeviceArray::DeviceArray(std::size_t bytes) : size_(bytes) {
  const std::string what = "taking " + std::to_string(bytes) + " bytes of device memory";
  check(cudaMalloc(&data_, bytes), what.c_str());
  check(cudaMemset(data_, 0, bytes), "clearing device memory");
  settle();
}

void DeviceArray::settle() {
  check(cudaStreamSynchronize(cudaStreamLegacy), "filling device memory");
}

DeviceArray::DeviceArray(DeviceArray&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

DeviceArray& DeviceArray::operator=(DeviceArray&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

DeviceArray::~DeviceArray() {
  if (data_ != nullptr) (void)cudaFree(data_);
}

}  // namespace forge::cuda
