#include <forge/actor.h>
#include <forge/error.h>
#include <forge/task.h>

#include <utility>

namespace forge {

ForgeActor::~ForgeActor() = default;
void ForgeActor::setup() {}

Context::~Context() = default;

void* Context::stream() const {
  throw NotSupported(
      "forge::context().stream(): this build gives actors no CUDA stream; make one with "
      "cudaStreamCreate in setup()");
}

Group& Context::group() const {
  throw NotSupported(
      "forge::context().group(): this build has no collectives between ranks; use MASTER_ADDR and "
      "MASTER_PORT from the environment to set up your own");
}

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
