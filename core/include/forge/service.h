// Service and ActorMesh: what `as_service` and `as_actor` return, their endpoints, and the options
// of one call.
#pragma once

#include <forge/future.h>
#include <forge/metrics.h>
#include <forge/options.h>
#include <forge/router.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace forge {

namespace core {
class CancelState;
class Engine;
}  // namespace core

enum class ReplicaState { uninitialized, healthy, recovering, unhealthy, quarantined, stopped };
std::string_view to_string(ReplicaState state) noexcept;

struct ReplicaStatus {
  std::uint32_t idx = 0;
  ReplicaState state = ReplicaState::uninitialized;
  bool healthy = false;
  std::uint64_t incarnation = 0;     ///< lives so far; restarts are incarnation - 1
  std::vector<int> pids;             ///< by rank; empty while none runs
  std::vector<std::string> devices;  ///< UUIDs, by rank; empty without with_gpus
};

/// What a service has survived.
struct ServiceCounters {
  std::uint64_t replays = 0;       ///< requests that moved after a death, never having started
  std::uint64_t retries = 0;       ///< idempotent requests that had started and were run again
  std::uint64_t refused = 0;       ///< answers that did not fit the ledger and were not counted
  std::uint64_t poisoned = 0;      ///< idempotent requests that killed workers and were given up
  std::uint64_t violations = 0;    ///< workers that wrote what no worker writes, and were killed
  std::uint64_t takeovers = 0;     ///< replicas that a spare stepped in for
  std::uint64_t quarantines = 0;   ///< replicas that died too often and were given up
  std::uint64_t restored = 0;      ///< sessions whose state came back on another replica
  std::uint64_t copied_bytes = 0;  ///< of tensors and byte blocks, once, into the arena
};

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
  std::chrono::nanoseconds timeout =
      std::chrono::nanoseconds::zero();  ///< zero: the controller's default
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
  std::chrono::nanoseconds timeout{0};
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
Tensor allocate_row(const EndpointRef& endpoint, DType dtype,
                    const std::vector<std::int64_t>& shape);

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
  /// once routed. Throws like Service::allocate.
  Tensor allocate(DType dtype, const std::vector<std::int64_t>& row_shape) const {
    return detail::allocate_row(ref_, dtype, row_shape);
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

namespace detail {
template <class R>
struct BoundResult {
  using type = R;
  static constexpr bool kMesh = false;
};
template <class R>
struct BoundResult<ValueMesh<R>> {
  using type = R;
  static constexpr bool kMesh = true;
};
template <class Signature>
struct Bound {
  static_assert(kNever<Signature>, "forge: a signature is written as Result(Arguments...)");
  static std::string signature() { return {}; }
  static constexpr bool kMesh = false;
};
template <class R, class... A>
struct Bound<R(A...)> {
  static std::string signature() { return signature_of<typename BoundResult<R>::type(A...)>(); }
  static constexpr bool kMesh = BoundResult<R>::kMesh;
};
/// Looks an endpoint up and compares signatures. Throws UnknownEndpoint, SignatureMismatch,
/// Stopped.
EndpointRef bind(const std::shared_ptr<core::Engine>& engine, std::string_view name,
                 const std::string& signature, bool wants_mesh);
/// Which session a call of this endpoint from this thread belongs to; empty: none.
std::string_view session_of(const EndpointRef& endpoint);
}  // namespace detail

struct SessionOptions {
  bool strict = false;  ///< SessionLost, once, when the replica that kept its state has died
};

/// A sticky, ordered conversation with one replica. While it lives, calls to its service from this
/// thread belong to it, unless they name another. Sessions nest; end one on the thread that began it.
class Session {
 public:
  Session(std::shared_ptr<core::Engine> engine, const SessionOptions& options);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  /// The session ends when its last call is over.
  ~Session();
  const std::string& id() const { return id_; }

 private:
  friend std::string_view detail::session_of(const detail::EndpointRef& endpoint);
  std::shared_ptr<core::Engine> engine_;
  std::string id_;
  const Session* outer_;  // of this thread
};

class Plugin;

/// A running service. Move-only; the last handle shuts it down. Endpoints may outlive it: their
/// calls answer Stopped.
class Service {
 public:
  explicit Service(std::shared_ptr<core::Engine> engine);
  Service(Service&&) noexcept;
  Service& operator=(Service&&) noexcept;
  /// shutdown(), at once while an exception unwinds.
  ~Service();

  /// Checked here, not at the call: throws UnknownEndpoint or SignatureMismatch.
  template <class Signature>
  Endpoint<Signature> endpoint(std::string_view name) const {
    using Bound = detail::Bound<Signature>;
    return Endpoint<Signature>(detail::bind(engine_, name, Bound::signature(), Bound::kMesh));
  }

  const std::string& name() const;
  std::vector<ReplicaStatus> replicas() const;
  /// Options::spares of them; `idx` counts on behind the replicas.
  std::vector<ReplicaStatus> spares() const;
  ServiceCounters counters() const;
  ServiceMetrics get_metrics() const;
  MetricsSummary get_metrics_summary() const;

  /// A session for as long as the object lives, on this thread.
  Session session(const SessionOptions& options = {}) const { return {engine_, options}; }
  /// Starts a session and returns its id, for CallOptions::sess_id. An id that nobody started is
  /// accepted there too, and starts one. Idle ones end after Options::session_idle_timeout.
  std::string start_session(const SessionOptions& options = {}) const;
  /// Ends it when its last call is over. An id that is no session's is ignored.
  void terminate_session(std::string_view id) const;
  /// Session id → replica, of those that have made a call.
  std::map<std::string, std::uint32_t, std::less<>> session_map() const;

  /// A tensor in the service's arena: fill it, route it, nothing is copied. Frozen once routed.
  /// Throws Backpressure when the arena is full, PayloadTooLarge when it could never fit.
  Tensor allocate(DType dtype, const std::vector<std::int64_t>& shape) const;

  /// Replaces the replicas one at a time, quarantined ones too: each finishes what it has been sent,
  /// while new calls go to the others, then it ends and comes back. No request fails for it; where
  /// there is one replica, requests wait. Sessions move on, and leave behind what the actor knew of
  /// them. Returns when all are back; takes as long as the longest call (see exec_timeout). Any thread
  /// but the callback thread. Devices that are quarantined may be used again. Throws Unavailable if one
  /// replica does not come back, with the rest untouched; Stopped.
  void restart_replicas() const;

  /// So many replicas from now on, between Options::min_replicas (else 1) and max_replicas (else what
  /// it was started with). New ones are spares if there are any. Those that leave finish what they have
  /// been sent, and their sessions move on; no request fails for it. Returns when the former are up
  /// and the latter have left. Any thread but the callback thread. Throws InvalidArgument; Unavailable
  /// if a replica does not come up; Stopped.
  void scale(int num_replicas) const;

  /// Replaces the replicas as restart_replicas() does, with the actor of the same name in another
  /// plugin. Endpoints keep the options they have here; those that only the new plugin has need a new
  /// service. SignatureMismatch, and nothing is done, if it is constructed otherwise or an endpoint
  /// that has been bound is missing or differs. PluginError, and all replicas have the old version
  /// again, if one does not come up with the new one. Keep the old file until this returns.
  void update(const Plugin& plugin) const;

  /// Drains within the controller's grace period, then stops: every future completes, every worker
  /// is reaped. Idempotent.
  void shutdown();

 private:
  std::shared_ptr<core::Engine> engine_;
};

/// One replica used directly. Does not recover: when a rank dies, calls fail with WorkerLost and
/// controller.on_actor_failure is called.
class ActorMesh {
 public:
  explicit ActorMesh(std::shared_ptr<core::Engine> engine);
  ActorMesh(ActorMesh&&) noexcept;
  ActorMesh& operator=(ActorMesh&&) noexcept;
  ~ActorMesh();

  template <class Signature>
  MeshEndpoint<Signature> endpoint(std::string_view name) const {
    return MeshEndpoint<Signature>(
        detail::bind(engine_, name, detail::Bound<Signature>::signature(), false));
  }

  const std::string& name() const;
  /// Number of ranks.
  std::size_t size() const;
  std::vector<int> pids() const;
  Tensor allocate(DType dtype, const std::vector<std::int64_t>& shape) const;
  void shutdown();

 private:
  std::shared_ptr<core::Engine> engine_;
};

}  // namespace forge
