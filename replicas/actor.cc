#include <forge/actor.h>
#include <forge/error.h>
#include <forge/task.h>

namespace forge {

namespace {
thread_local Context* current_context = nullptr;
}

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
  if (current_context == nullptr) {
    throw InvalidArgument(
        "forge::context() was called on a thread that runs no actor; ask in the endpoint itself "
        "and hand the answer to your own threads");
  }
  return *current_context;
}

namespace detail {

Context* set_context(Context* context) noexcept {
  Context* const before = current_context;
  current_context = context;
  return before;
}

void throw_task_misuse() {
  throw InvalidArgument(
      "a forge::Task was awaited that is empty: it was moved from or awaited before; call the "
      "coroutine again for a new one");
}

}  // namespace detail
}  // namespace forge
