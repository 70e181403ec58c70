// Endpoints of services and meshes: how they are called, and with which options.
#pragma once

#include <forge/future.h>
#include <forge/options.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace forge {

namespace core {
class CancelState;
class Engine;
}  // namespace core

/// Told to calls through CallOptions; copies refer to the same source.
struct CancelToken {
  std::uint64_t id = 0;  ///< 0: never cancelled
};

/// Cancels the calls that were made with its token and are still open: those that have not started
/// never run, a running endpoint sees cancelled(), all of them answer Cancelled. Copies are the same
/// source; any thread.
class CancelSource {
 public:
  CancelSource();
  CancelToken token() const;
  /// Calls made with the token from now on answer Cancelled at once. Idempotent.
  void cancel() const;

 private:
  std::shared_ptr<core::CancelState> state_;
};

/// Trivially copyable; with() copies what the views show.
struct CallOptions {
  std::string_view sess_id = {};
  /// From the call on; it ends with DeadlineExceeded then. None: ControllerOptions::default_timeout.
  /// Zero and less: it ends at once, and is not sent. nanoseconds::max(): as long as it takes.
  std::optional<std::chrono::nanoseconds> timeout = std::nullopt;
  std::string_view key = {};
  CancelToken cancel = {};
};
static_assert(std::is_trivially_copyable_v<CallOptions>);

/// One value per rank.
template <class T>
class ValueMesh {
 public:
  ValueMesh() = default;
  explicit ValueMesh(std::vector<std::pair<int, T>> values) : values_(std::move(values)) {}
  std::size_t size() const { return values_.size(); }
  /// Throws InvalidArgument if there is no such rank.
  const T& at(std::size_t rank) const {
    if (rank >= values_.size()) {
      throw InvalidArgument("rank " + std::to_string(rank) + " of a mesh of " +
                            std::to_string(values_.size()));
    }
    return values_[rank].second;
  }
  /// Iterates over pairs (rank, value).
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }

 private:
  std::vector<std::pair<int, T>> values_;
};

namespace detail {

/// How a call is addressed.
enum class CallMode : std::uint8_t { route, fanout, choose, call_one, call, broadcast };

struct OwnedCallOptions {
  std::string sess_id;
  std::optional<std::chrono::nanoseconds> timeout;
  std::string key;
  CancelToken cancel;
};

/// An endpoint of a running service or mesh, without its types.
struct EndpointRef {
  std::shared_ptr<core::Engine> engine;
  std::uint16_t index = 0;
  bool all_ranks = false;  ///< the answer is a ValueMesh
  OwnedCallOptions options;
};

/// The thread's writer for arguments, ready for this engine. It holds the session's id already, if
/// the call has one.
Writer& arguments_writer(const EndpointRef& endpoint);
/// Sends what arguments_writer() holds. Never throws: what goes wrong is in the state. Null for
/// broadcast.
AnswerState* submit(const EndpointRef& endpoint, CallMode mode, Writer& arguments);
OwnedCallOptions own(const CallOptions& options);
using Timeout = std::optional<std::chrono::nanoseconds>;
Tensor allocate_row(const EndpointRef& endpoint, DType dtype,
                    const std::vector<std::int64_t>& shape, Timeout timeout);

[[noreturn]] void throw_does_not_fit(const std::string& number, std::size_t bytes, bool integer);

/// Numbers that convert into each other: bool and characters keep to themselves in std::in_range.
template <class T>
inline constexpr bool kNumber = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

/// Does the value of `x` survive as an A? Fractions of floating point may be rounded, not cut off.
template <class A, class X>
constexpr bool number_fits(X x) {
  if constexpr (std::is_integral_v<A> && std::is_integral_v<X>) {
    if (std::is_signed_v<X> && x < X{0}) {
      return std::is_signed_v<A> && static_cast<std::intmax_t>(x) >=
                                        static_cast<std::intmax_t>(std::numeric_limits<A>::min());
    }
    return static_cast<std::uintmax_t>(x) <=
           static_cast<std::uintmax_t>(std::numeric_limits<A>::max());
  } else if constexpr (std::is_integral_v<A>) {
    // 2^digits is the first power of two beyond A, and exact in any floating point.
    const X beyond = std::ldexp(X{1}, std::numeric_limits<A>::digits);
    return x < beyond && x >= (std::is_signed_v<A> ? -beyond : X{0}) && std::trunc(x) == x;
  } else if constexpr (std::is_floating_point_v<X>) {
    return !std::isfinite(x) || std::isfinite(static_cast<A>(x));
  } else {
    return true;
  }
}

/// x as the payload type A: itself if it is one, converted if its value fits.
template <class A, class X>
decltype(auto) fit(X&& x) {
  using From = std::remove_cvref_t<X>;
  if constexpr (std::is_same_v<From, A>) {
    return static_cast<const A&>(x);
  } else if constexpr (kNumber<From> && kNumber<A>) {
    if (!number_fits<A>(x)) throw_does_not_fit(std::to_string(x), sizeof(A), std::is_integral_v<A>);
    return static_cast<A>(x);
  } else {
    return A(std::forward<X>(x));
  }
}

template <class R>
Result<R> take_first(FutureState& state) {
  auto& answers = static_cast<AnswerState&>(state);
  return capture([&]() -> R {
    if (auto error = answers.error(0)) error->raise();
    if constexpr (!std::is_void_v<R>) {
      Reader reader = answers.value(0, 0);
      return Codec<R>::decode(reader);
    }
  });
}

template <class R>
Result<std::vector<Result<R>>> take_shares(FutureState& state) {
  auto& answers = static_cast<AnswerState&>(state);
  return capture([&] {
    if (auto error = answers.failure()) error->raise();  // of the call as a whole
    std::vector<Result<R>> results;
    results.reserve(answers.shares());
    for (std::size_t share = 0; share < answers.shares(); ++share) {
      if (auto error = answers.error(share)) {
        results.push_back(std::move(error));
        continue;
      }
      results.push_back(capture([&]() -> R {
        if constexpr (!std::is_void_v<R>) {
          Reader reader = answers.value(share, 0);
          return Codec<R>::decode(reader);
        }
      }));
    }
    return results;
  });
}

template <class R>
Result<ValueMesh<R>> take_mesh(FutureState& state) {
  auto& answers = static_cast<AnswerState&>(state);
  return capture([&] {
    if (auto error = answers.error(0)) error->raise();
    std::vector<std::pair<int, R>> values;
    values.reserve(answers.ranks());
    for (std::size_t rank = 0; rank < answers.ranks(); ++rank) {
      Reader reader = answers.value(0, rank);
      values.emplace_back(static_cast<int>(rank), Codec<R>::decode(reader));
    }
    return ValueMesh<R>(std::move(values));
  });
}

/// Encodes the arguments of a call and sends it.
template <class... A>
struct Caller {
  template <class... X>
  static AnswerState* call(const EndpointRef& endpoint, CallMode mode, X&&... args) {
    static_assert(sizeof...(X) == sizeof...(A), "the endpoint takes another number of arguments");
    static_assert((std::is_constructible_v<A, X> && ...),
                  "an argument does not convert to what the endpoint takes");
    return send(endpoint, mode, fit<A>(std::forward<X>(args))...);
  }

 private:
  static AnswerState* send(const EndpointRef& endpoint, CallMode mode, const A&... args) {
    Writer& writer = arguments_writer(endpoint);
    writer.array(sizeof...(A));
    (Codec<A>::encode(writer, args), ...);
    return submit(endpoint, mode, writer);  // while args live: the writer refers to their bytes
  }
};

template <class R>
struct AnswerType {
  using type = R;
  static constexpr auto take = &take_first<R>;
};
template <class R>
struct AnswerType<ValueMesh<R>> {
  using type = R;
  static constexpr auto take = &take_mesh<R>;
};

/// Names what is meant when somebody uses a mesh's verb on a service, or the other way round.
template <class T>
inline constexpr bool kNever = false;

}  // namespace detail

template <class Signature>
class Endpoint {
  static_assert(detail::kNever<Signature>, "forge: a signature is written as Result(Arguments...)");
};

/// An endpoint of a service. Cheap to copy; any thread. Errors arrive in the futures.
///
/// Where the service's arena is full, a call that has a deadline waits for room until then before it
/// returns, behind those that wait already, and fetches answers meanwhile; without a deadline, or on a
/// thread of forge's own (the callback thread), it is Backpressure at once.
template <class R, class... A>
class Endpoint<R(A...)> {
  using Answer = detail::AnswerType<R>;
  using Call = detail::Caller<std::remove_cvref_t<A>...>;

 public:
  explicit Endpoint(detail::EndpointRef ref) : ref_(std::move(ref)) {}

  /// To one healthy replica, chosen by the endpoint's router.
  template <class... X>
  Future<R> route(X&&... args) const {
    try {
      return Future<R>(Call::call(ref_, detail::CallMode::route, std::forward<X>(args)...),
                       Answer::take);
    } catch (const Error& error) {  // an argument that does not fit
      return detail::failed_future<R>(error.clone());
    }
  }

  /// To every healthy replica; results in order of replica, each a value or an error of its own.
  template <class... X>
  auto fanout(X&&... args) const {
    static_assert(std::is_same_v<typename Answer::type, R>,
                  "fanout() answers rank 0 of each replica; bind the plain result");
    using Results = std::vector<Result<R>>;
    try {
      return Future<Results>(Call::call(ref_, detail::CallMode::fanout, std::forward<X>(args)...),
                             &detail::take_shares<R>);
    } catch (const Error& error) {
      return detail::failed_future<Results>(error.clone());
    }
  }

  /// A row of this endpoint's next batch, in the service's arena: fill it, route it, and the actor
  /// sees the rows of a batch as one tensor, without a copy, if all of them were made here. Frozen
  /// once routed. Waits and throws like Service::allocate.
  Tensor allocate(DType dtype, const std::vector<std::int64_t>& row_shape,
                  std::optional<std::chrono::nanoseconds> timeout = std::nullopt) const {
    return detail::allocate_row(ref_, dtype, row_shape, timeout);
  }

  /// The same endpoint with options for the calls made through it.
  Endpoint with(const CallOptions& options) const {
    Endpoint other = *this;
    other.ref_.options = detail::own(options);
    return other;
  }

  template <class T = void>
  void choose(auto&&...) const {
    static_assert(detail::kNever<T>, "services support route() and fanout()");
  }
  template <class T = void>
  void call(auto&&...) const {
    static_assert(detail::kNever<T>, "services support route() and fanout()");
  }
  template <class T = void>
  void call_one(auto&&...) const {
    static_assert(detail::kNever<T>, "services support route() and fanout()");
  }
  template <class T = void>
  void broadcast(auto&&...) const {
    static_assert(detail::kNever<T>, "services support route() and fanout()");
  }

 private:
  detail::EndpointRef ref_;
};

template <class Signature>
class MeshEndpoint {
  static_assert(detail::kNever<Signature>, "forge: a signature is written as Result(Arguments...)");
};

/// An endpoint of an actor mesh.
template <class R, class... A>
class MeshEndpoint<R(A...)> {
  using Call = detail::Caller<std::remove_cvref_t<A>...>;

 public:
  explicit MeshEndpoint(detail::EndpointRef ref) : ref_(std::move(ref)) {}

  /// One rank, the one with the least to do.
  template <class... X>
  Future<R> choose(X&&... args) const {
    return one(detail::CallMode::choose, std::forward<X>(args)...);
  }
  /// The only rank; InvalidArgument if there are more.
  template <class... X>
  Future<R> call_one(X&&... args) const {
    return one(detail::CallMode::call_one, std::forward<X>(args)...);
  }
  /// All ranks.
  template <class... X>
  auto call(X&&... args) const {
    if constexpr (std::is_void_v<R>) {
      return one(detail::CallMode::call, std::forward<X>(args)...);
    } else {
      try {
        return Future<ValueMesh<R>>(
            Call::call(ref_, detail::CallMode::call, std::forward<X>(args)...),
            &detail::take_mesh<R>);
      } catch (const Error& error) {
        return detail::failed_future<ValueMesh<R>>(error.clone());
      }
    }
  }
  /// All ranks, no answer. Throws what keeps it from being sent.
  template <class... X>
  void broadcast(X&&... args) const {
    detail::AnswerState* state =
        Call::call(ref_, detail::CallMode::broadcast, std::forward<X>(args)...);
    if (state != nullptr) Future<void>(state, &detail::take_first<void>).get();
  }
  MeshEndpoint with(const CallOptions& options) const {
    MeshEndpoint other = *this;
    other.ref_.options = detail::own(options);
    return other;
  }

  template <class T = void>
  void route(auto&&...) const {
    static_assert(detail::kNever<T>,
                  "actor meshes support choose(), call_one(), call() and broadcast()");
  }
  template <class T = void>
  void fanout(auto&&...) const {
    static_assert(detail::kNever<T>,
                  "actor meshes support choose(), call_one(), call() and broadcast()");
  }

 private:
  template <class... X>
  Future<R> one(detail::CallMode mode, X&&... args) const {
    try {
      return Future<R>(Call::call(ref_, mode, std::forward<X>(args)...), &detail::take_first<R>);
    } catch (const Error& error) {
      return detail::failed_future<R>(error.clone());
    }
  }
  detail::EndpointRef ref_;
};

}  // namespace forge
