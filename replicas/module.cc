// What the templates of the registering headers have in common: checks, messages, stacking.
#include <forge/batch.h>
#include <forge/module.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "replicas/type_name.h"
#include "shm/failpoint.h"

namespace forge {
namespace detail {

namespace {

std::string plural(std::size_t count, std::string_view noun) {
  return std::to_string(count) + " " + std::string(noun) + (count == 1 ? "" : "s");
}

/// Endpoints run on one thread; others may stack as well.
std::atomic<std::uint64_t> copied{0};

}  // namespace

void check_options(const std::string& where, const EndpointOptions& options,
                   std::string_view remedy) {
  const auto fail = [&](const std::string& what) {
    throw InvalidArgument(where + ": " + what + "; " + std::string(remedy));
  };
  if (options.router.empty()) fail("router is empty");
  if (options.batch_size < 1)
    fail("batch_size is " + std::to_string(options.batch_size) + ", not 1 or more");
  if (options.batch_timeout.count() < 0) fail("batch_timeout is negative");
  if (options.exec_timeout && options.exec_timeout->count() <= 0) {
    fail("exec_timeout is not positive; leave it out for no limit");
  }
}

void ActorInfo::add(EndpointInfo endpoint) {
  const std::string where = "endpoint \"" + endpoint.name + "\" of actor \"" + name + "\"";
  if (endpoint.name.empty()) {
    throw InvalidArgument("an endpoint of actor \"" + name + "\" has no name; give it one");
  }
  if (is_hidden(endpoint.name)) {
    throw InvalidArgument(where + " begins with '~', as forge's own do; give it another name");
  }
  for (const EndpointInfo& other : endpoints) {
    if (other.name == endpoint.name) {
      throw InvalidArgument(where + " is registered twice; give one of them another name");
    }
  }
  check_options(where, endpoint.options, "correct it in FORGE_PLUGIN");
  endpoints.push_back(std::move(endpoint));
}

void ActorInfo::set_defaults(Options options) {
  if (!options.routers.empty()) {
    throw InvalidArgument("the defaults of actor \"" + name +
                          "\" have routers, which run in the embedding program; pass them to "
                          "options() there");
  }
  if (!options.endpoints.empty()) {
    throw InvalidArgument("the defaults of actor \"" + name +
                          "\" have endpoints; say it where each endpoint is registered");
  }
  defaults = std::move(options);
}

void check_argument_count(std::string_view where, std::size_t wanted, std::size_t got) {
  FORGE_FAILPOINT(decoding);
  if (wanted == got) return;
  throw SignatureMismatch(std::string(where) + " takes " + plural(wanted, "argument") + ", got " +
                          std::to_string(got) + "; pass " + plural(wanted, "argument"));
}

void throw_bad_argument(std::string_view where, std::size_t index,
                        const std::vector<std::string>& types, const Error& cause) {
  throw InvalidArgument("argument " + std::to_string(index) + " of " + std::string(where) + " is " +
                        types.at(index - 1) +
                        " and cannot be made from what was passed: " + cause.what());
}

void throw_bad_batch(std::string_view where, std::size_t wanted, std::size_t got) {
  throw InvalidArgument(std::string(where) + " answered " + plural(got, "element") +
                        " to a batch of " + std::to_string(wanted) +
                        "; a batched endpoint answers element i with element i");
}

ErrorPtr as_actor_error(const Error& error) {
  if (error.error_code() == ErrorCode::actor_error) return error.clone();
  return std::make_shared<const ActorError>("", replicas::type_name(typeid(error)), error.what());
}

std::uint64_t copied_tensors() noexcept { return copied.load(std::memory_order_relaxed); }

std::size_t rows(const Tensor& stacked) {
  if (stacked.shape().empty()) {
    throw InvalidArgument(
        "a batched endpoint answered a tensor without dimensions; answer one of shape [n, ...]");
  }
  return static_cast<std::size_t>(stacked.shape().front());
}

Tensor row(const Tensor& stacked, std::size_t index) {
  const std::span<const std::int64_t> shape = stacked.shape().subspan(1);
  if (!stacked.storage()) return Tensor(stacked.dtype(), {shape.begin(), shape.end()});
  const std::size_t row_bytes = stacked.byte_count() / rows(stacked);
  return Tensor::adopt(stacked.storage(), stacked.dtype(), shape,
                       stacked.byte_offset() + index * row_bytes);
}

}  // namespace detail

namespace {
const std::byte* begin_of(const Tensor& tensor) {
  return tensor.storage() ? tensor.storage()->data + tensor.byte_offset() : nullptr;
}
}  // namespace

Tensor stack(std::span<const Tensor> tensors) {
  if (tensors.empty()) throw InvalidArgument("there is no tensor to stack");
  const Tensor& first = tensors.front();
  if (first.shape().size() == Tensor::kMaxDims) {
    throw InvalidArgument("a tensor of a batch has " + std::to_string(Tensor::kMaxDims) +
                          " dimensions already, there is no room to stack it; reshape it");
  }
  bool adjoin = first.storage() != nullptr;
  const std::size_t row_bytes = first.byte_count();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    if (tensor.dtype() != first.dtype() || tensor.device() != first.device() ||
        !std::ranges::equal(tensor.shape(), first.shape())) {
      throw InvalidArgument(
          "the tensors of a batch differ in dtype or shape, or in the device they lie on, and "
          "cannot be stacked; send equal ones, or take a std::vector<forge::Tensor>");
    }
    adjoin = adjoin && begin_of(tensor) == begin_of(first) + i * row_bytes;
  }
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(tensors.size())};
  shape.insert(shape.end(), first.shape().begin(), first.shape().end());
  if (adjoin) {
    const std::size_t offset = first.byte_offset();
    const std::size_t end = offset + tensors.size() * row_bytes;
    const auto storage =
        end <= first.storage()->size ? first.storage() : first.storage()->widened(end);
    if (storage) return Tensor::adopt(storage, first.dtype(), shape, offset);
  }
  if (first.storage() != nullptr) {
    std::vector<std::span<const std::byte>> pieces;
    for (const Tensor& tensor : tensors) pieces.emplace_back(begin_of(tensor), row_bytes);
    if (const auto joined = first.storage()->joined(pieces))
      return Tensor::adopt(joined, first.dtype(), shape);
  }
  detail::copied.fetch_add(tensors.size(), std::memory_order_relaxed);
  Tensor stacked(first.dtype(), shape);
  std::byte* to = stacked.span<std::byte>().data();
  for (const Tensor& tensor : tensors) {
    if (row_bytes != 0) std::memcpy(to, tensor.bytes().data(), row_bytes);
    to += row_bytes;
  }
  return stacked;
}

const detail::ActorInfo* Module::find(std::string_view name) const {
  const auto found = std::ranges::find(actors_, name, &detail::ActorInfo::name);
  return found == actors_.end() ? nullptr : &*found;
}

detail::ActorInfo& Module::add(detail::ActorInfo actor) {
  if (actor.name.empty()) throw InvalidArgument("an actor was registered without a name");
  if (find(actor.name) != nullptr) {
    throw InvalidArgument("actor \"" + actor.name +
                          "\" is registered twice; give one of them another name");
  }
  return actors_.emplace_back(std::move(actor));
}

}  // namespace forge
