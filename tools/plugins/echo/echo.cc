// Echo: gives back what it gets. forge-bench measures with it; tests push bytes through it.
#include <forge/plugin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

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

  /// Batched.
  std::vector<forge::Bytes> bytes_batch(std::vector<forge::Bytes> values) const { return values; }

  /// Throws if the session has sent a later one before. A number is in the first 8 bytes.
  forge::Bytes bytes_in_order(forge::Bytes value) {
    check_order(value);
    return value;
  }
  forge::Tensor tensor_in_order(const forge::Tensor& value) {
    check_order(value.bytes());
    return tensor(value);
  }

  /// How many tensors of batches had to be copied here.
  std::uint64_t copied_tensors() const { return forge::detail::copied_tensors(); }

  /// The number, and which replica gave it back.
  std::pair<std::int64_t, int> located(std::int64_t value) const {
    return {value, forge::context().replica()};
  }

 private:
  void check_order(std::span<const std::byte> value) {
    std::uint64_t number = 0;
    if (value.size() < sizeof(number)) {
      throw forge::InvalidArgument("no number in " + std::to_string(value.size()) +
                                   " bytes; begin with 8 bytes that count up");
    }
    std::memcpy(&number, value.data(), sizeof(number));
    std::uint64_t& last = last_[forge::context().sess_id()];
    if (number <= last) {
      throw std::runtime_error("number " + std::to_string(number) + " came after " +
                               std::to_string(last) + " in session '" + forge::context().sess_id() +
                               "'");
    }
    last = number;
  }

  std::unordered_map<std::string, std::uint64_t> last_;  // by session
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Echo>("Echo", "Gives back what it gets.")
      .endpoint("scalar", &Echo::scalar)
      .endpoint("text", &Echo::text)
      .endpoint("bytes", &Echo::bytes)
      .endpoint("tensor", &Echo::tensor)
      .endpoint("bytes_in_order", &Echo::bytes_in_order)
      .endpoint("tensor_in_order", &Echo::tensor_in_order)
      .endpoint("located", &Echo::located)
      .endpoint("copied_tensors", &Echo::copied_tensors)
      // In batches as large as the service wants them.
      .batched_endpoint("bytes_batch", &Echo::bytes_batch, {})
      .batched_endpoint("tensor_batch", &Echo::tensor, {})
      .service_endpoint("scalar_idempotent", &Echo::scalar, {.idempotent = true})
      .service_endpoint("bytes_idempotent", &Echo::bytes, {.idempotent = true})
      .service_endpoint("tensor_idempotent", &Echo::tensor, {.idempotent = true});
}
