// Routers: which replica a call goes to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace forge {

/// What a router sees of a replica, as of this call.
struct Replica {
  std::uint32_t idx = 0;
  std::size_t active_requests = 0;  ///< at most replica_max_concurrent_requests
  std::size_t queue_depth = 0;      ///< the others that wait for it
  double current_load = 0;          ///< active + queued
  double capacity_utilization = 0;  ///< active over replica_max_concurrent_requests, at most 1
  std::size_t assigned_sessions = 0;
};

/// What a router knows about a call. Views; valid during get_replica only.
struct RouteContext {
  std::string_view endpoint;
  std::string_view sess_id;
  const std::map<std::string, std::uint32_t, std::less<>>& session_map;  ///< sess_id → replica idx
  std::string_view key;
};

/// Called in the controller, by one thread at a time per router, while its service is locked: it decides
/// by what it is given and by what other threads have left for it, and should take microseconds. Calls of
/// services, meshes, sessions, endpoints, futures, cancel sources and controllers throw InvalidArgument
/// there.
class Router {
 public:
  virtual ~Router() = default;
  /// Returns an element of `healthy`, which is never empty and in order of idx. What it throws goes
  /// to the caller of this call alone.
  virtual const Replica& get_replica(std::span<const Replica> healthy,
                                     const RouteContext& context) = 0;
  /// False: it looks at idx alone, and the other members need not be brought up to date for it.
  virtual bool wants_load() const { return true; }
};

/// Each healthy replica in turn.
class RoundRobinRouter : public Router {
 public:
  const Replica& get_replica(std::span<const Replica> healthy,
                             const RouteContext& context) override;
  bool wants_load() const override { return false; }

 private:
  std::uint64_t next_ = 0;
};

/// The replica with the least active and queued; the lowest idx among equals.
class LeastLoadedRouter : public Router {
 public:
  const Replica& get_replica(std::span<const Replica> healthy,
                             const RouteContext& context) override;
};

/// The less loaded of two picked at random: nearly as even as looking at all, without herding.
/// (Mitzenmacher, 2001)
class PowerOfTwoRouter : public Router {
 public:
  explicit PowerOfTwoRouter(std::uint64_t seed = 0x9E3779B97F4A7C15ULL) : state_(seed) {}
  const Replica& get_replica(std::span<const Replica> healthy,
                             const RouteContext& context) override;

 private:
  std::uint64_t state_;
};

/// Equal keys go to the same replica while it is healthy; other keys stay where they are when one
/// comes or goes (rendezvous hashing, Thaler and Ravishankar 1998).
class HashRouter : public Router {
 public:
  const Replica& get_replica(std::span<const Replica> healthy,
                             const RouteContext& context) override;
  bool wants_load() const override { return false; }
};

}  // namespace forge
