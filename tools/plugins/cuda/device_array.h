// DeviceArray: device memory of a fixed size at a fixed address, as graphs need it. For weights and
// buffers that live as long as an actor; what a call needs comes from context().allocate_device().
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

namespace forge::cuda {

/// Throws std::runtime_error that says what was tried and what CUDA said; clears the last error.
void check(cudaError_t status, const char* what);

class DeviceArray {
 public:
  DeviceArray() = default;
  /// Zeroed. Throws std::runtime_error with the byte count if there is no room.
  explicit DeviceArray(std::size_t bytes);
  DeviceArray(DeviceArray&& other) noexcept;
  DeviceArray& operator=(DeviceArray&& other) noexcept;
  ~DeviceArray();

  template <class T>
  static DeviceArray of(const std::vector<T>& values) {
    DeviceArray array(values.size() * sizeof(T));
    check(cudaMemcpy(array.data_, values.data(), array.size_, cudaMemcpyHostToDevice),
          "copying weights to the device");
    settle();
    return array;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t size() const { return size_; }

 private:
  /// Streams of workers do not wait for the default stream, where memory is filled and copied while
  /// the host goes on.
  static void settle();

  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace forge::cuda
