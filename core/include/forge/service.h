// Service and ActorMesh: what `as_service` and `as_actor` return. Their endpoints are in endpoint.h.
#pragma once

#include <forge/endpoint.h>
#include <forge/metrics.h>
#include <forge/options.h>
#include <forge/router.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace forge {

namespace core {
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
  std::string reason;                ///< why it is not healthy: how its last life ended, or failed
                                     ///< to begin; empty if nothing has gone wrong
};

/// What a service has survived.
struct ServiceCounters {
  std::uint64_t replays = 0;     ///< requests that moved after a death, never having started
  std::uint64_t retries = 0;     ///< idempotent requests that had started and were run again
  std::uint64_t refused = 0;     ///< answers that did not fit the ledger and were not counted
  std::uint64_t poisoned = 0;    ///< requests that were given up or refused: they kill workers
  std::uint64_t violations = 0;  ///< workers that wrote what no worker writes, and were killed
  std::uint64_t takeovers = 0;   ///< replicas that a spare stepped in for
  std::uint64_t quarantines =
      0;                       ///< times that a replica died too often and was left alone for long
  std::uint64_t restored = 0;  ///< sessions whose state came back on another replica
  std::uint64_t copied_bytes = 0;  ///< of tensors and byte blocks, once, into the arena
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
  /// Its next call hears SessionLost, once, when its state is gone: the replica that kept it has died, or
  /// the session has been idle for longer than Options::session_idle_timeout, or was terminated.
  bool strict = false;
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
  /// Throws PayloadTooLarge when it could never fit. When the arena is full, throws Backpressure, or with
  /// a timeout waits for room, in order with the calls that do, and then throws DeadlineExceeded; on the
  /// callback thread it does not wait. Stopped.
  Tensor allocate(DType dtype, const std::vector<std::int64_t>& shape,
                  std::optional<std::chrono::nanoseconds> timeout = std::nullopt) const;

  /// Replaces the replicas one at a time, quarantined ones too: each finishes what it has been sent,
  /// while new calls go to the others, then it ends and comes back. No request fails for it; where
  /// there is one replica, requests wait. Sessions move on, and leave behind what the actor knew of
  /// them. Returns when all are back; waits for calls that run (see exec_timeout). Any thread
  /// but the callback thread. Devices that are quarantined may be used again. Throws Unavailable if one
  /// replica does not come back or its calls do not end within Options::start_timeout, with the rest
  /// untouched; Stopped. Actors whose destructor hangs are killed after ControllerOptions::shutdown_grace.
  void restart_replicas() const;

  /// So many replicas from now on, between Options::min_replicas (else 1) and max_replicas (else what
  /// it was started with). New ones are spares if there are any. Those that leave finish what they have
  /// been sent, and their sessions move on; no request fails for it. Returns when the former are up
  /// and the latter have left. Any thread but the callback thread. Throws InvalidArgument; Unavailable
  /// if a replica does not come up, or one has not left, within Options::start_timeout (it leaves when
  /// its calls have ended); Stopped.
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
  /// Like Service::allocate.
  Tensor allocate(DType dtype, const std::vector<std::int64_t>& shape,
                  std::optional<std::chrono::nanoseconds> timeout = std::nullopt) const;
  void shutdown();

 private:
  std::shared_ptr<core::Engine> engine_;
};

}  // namespace forge
