// Echo: gives back what it gets. forge-bench measures with it; tests push bytes through it.
#include <forge/plugin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace {

class Echo : public forge::ForgeActor {
 public:
  std::int64_t scalar(std::int64_t value) const { return value; }
  std::string text(std::string value) const { return value; }
  forge::Bytes bytes(forge::Bytes value) const { return value; }

  /// One copy, from request memory straight into response memory.
  forge::Tensor tensor(const forge::Tensor& value) const {
    forge::Tensor answer = forge::context().allocate(value.dtype(), value.shape());
    // Not std::copy: g++ 12 makes a loop over std::byte of it, at a sixth of the speed.
    if (value.bytes().size() != 0)
      std::memcpy(answer.span<std::byte>().data(), value.bytes().data(), value.bytes().size());
    return answer;
  }
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Echo>("Echo", "Gives back what it gets.")
      .endpoint("scalar", &Echo::scalar)
      .endpoint("text", &Echo::text)
      .endpoint("bytes", &Echo::bytes)
      .endpoint("tensor", &Echo::tensor)
      .service_endpoint("scalar_idempotent", &Echo::scalar, {.idempotent = true})
      .service_endpoint("bytes_idempotent", &Echo::bytes, {.idempotent = true})
      .service_endpoint("tensor_idempotent", &Echo::tensor, {.idempotent = true});
}
