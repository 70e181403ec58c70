#include <forge/actor.h>
#include <forge/error.h>
#include <forge/task.h>

#include <string>
#include <utility>

namespace forge {

ForgeActor::~ForgeActor() = default;
void ForgeActor::setup() {}

Context::~Context() = default;

void* Context::stream() const {
  throw NotSupported(
      "forge::context().stream(): this worker's device is the host, which has no CUDA stream; make "
      "your own with cudaStreamCreate in setup() if there is a GPU");
}

Group& Context::group() const {
  throw NotSupported(
      "forge::context().group(): there are no other ranks here; only workers have a group");
}

Tensor Context::to_device(const Tensor& tensor) { return tensor; }

Tensor Context::to_host(const Tensor& tensor) {
  if (tensor.device() < 0) return tensor;
  throw InvalidArgument(
      "forge::context().to_host(): this worker has no device, but the tensor is on "
      "device " +
      std::to_string(tensor.device()) +
      "; start the service with with_gpus, or copy with the library that made it");
}

Tensor Context::allocate_on_device(DType dtype, std::span<const std::int64_t> shape) {
  return Tensor(dtype, {shape.begin(), shape.end()});
}

detail::DeviceWork* Context::device_work() { return nullptr; }

Context& context() {
  Context* const current = detail::scope().context;
  if (current == nullptr) {
    throw InvalidArgument(
        "forge::context() was called on a thread that runs no actor; ask in the endpoint itself "
        "and hand the answer to your own threads");
  }
  return *current;
}

namespace detail {

Context* set_context(Context* context) noexcept { return std::exchange(scope().context, context); }

}  // namespace detail
}  // namespace forge
