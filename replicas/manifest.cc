#include "replicas/manifest.h"

#include <forge/error.h>
#include <forge/payload.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

namespace forge::replicas {

namespace {

using detail::Codec;
using detail::Reader;
using detail::Writer;

// Every struct is spelled once: `with_parts(object, visit)` hands all of its parts to `visit`, in
// the order in which they travel. Routers, endpoints and the scaling policy of Options do not.
template <class Visit>
void with_parts(auto& policy, Visit visit) requires requires {
  policy.backoff_max;
}
{ visit(policy.backoff_initial, policy.backoff_max, policy.max_deaths, policy.window); }
template <class Visit>
void with_parts(auto& scaling, Visit visit) requires requires {
  scaling.enabled;
}
{
  visit(scaling.enabled, scaling.scale_up_queue_depth, scaling.scale_up_capacity,
        scaling.scale_up_request_rate, scaling.emergency_queue_depth, scaling.scale_down_capacity,
        scaling.scale_down_queue_depth, scaling.scale_down_delay, scaling.min_time_between_events,
        scaling.scale_up_cooldown, scaling.scale_down_cooldown, scaling.scale_up_step,
        scaling.scale_down_step, scaling.min_healthy_ratio, scaling.target_ongoing_requests,
        scaling.look_back, scaling.upscale_smoothing, scaling.downscale_smoothing);
}
template <class Visit>
void with_parts(auto& o, Visit visit) requires requires {
  o.num_replicas;
}
{
  visit(o.procs, o.num_replicas, o.with_gpus, o.hosts, o.health_poll_rate,
        o.replica_max_concurrent_requests, o.return_first_rank_result, o.name, o.min_replicas,
        o.max_replicas, o.autoscaling, o.restart, o.max_queued_requests, o.session_idle_timeout,
        o.env, o.rank_env, o.arena_bytes, o.wait, o.cpus, o.start_timeout, o.spares, o.gpu_share);
}
template <class Visit>
void with_parts(auto& o, Visit visit) requires requires {
  o.idempotent;
}
{
  visit(o.router, o.batch_size, o.batch_timeout, o.idempotent, o.exec_timeout, o.restart_on_error);
}
template <class Visit>
void with_parts(auto& endpoint, Visit visit) requires requires {
  endpoint.signature;
}
{ visit(endpoint.name, endpoint.signature, endpoint.kind, endpoint.options, endpoint.coroutine); }
template <class Visit>
void with_parts(auto& actor, Visit visit) requires requires {
  actor.constructor;
}
{ visit(actor.name, actor.doc, actor.constructor, actor.defaults, actor.endpoints); }
template <class Visit>
void with_parts(auto& manifest, Visit visit) requires requires {
  manifest.plugin;
}
{ visit(manifest.plugin, manifest.actors, manifest.build); }

// Enums that travel, with how many values they have: a worker's bytes are not trusted.
template <class T>
constexpr int kValues = 0;
template <>
constexpr int kValues<Wait> = 3;
template <>
constexpr int kValues<EndpointKind> = 3;

template <class T>
void write(Writer& out, const T& value);
template <class T>
void read(Reader& in, T& value);

void write(Writer& out, const std::chrono::nanoseconds& value) { out.integer(value.count()); }
void read(Reader& in, std::chrono::nanoseconds& value) {
  value = std::chrono::nanoseconds(in.integer());
}

void write(Writer& out, const std::optional<std::chrono::nanoseconds>& value) {
  value ? write(out, *value) : out.nil();
}
void read(Reader& in, std::optional<std::chrono::nanoseconds>& value) {
  if (in.peek() == detail::Kind::nil) return in.nil(), value.reset();
  read(in, value.emplace());
}

using RankEnv = decltype(Options::rank_env);
void write(Writer& out, const RankEnv& values) {
  out.array(values.size());
  for (const auto& [rank, env] : values) {
    out.array(2);
    out.integer(rank);
    Codec<RankEnv::mapped_type>::encode(out, env);
  }
}
void read(Reader& in, RankEnv& values) {
  values.clear();
  for (std::size_t left = in.array(); left != 0; --left) {
    detail::read_array_of(in, 2);
    const int rank = Codec<int>::decode(in);
    values[rank] = Codec<RankEnv::mapped_type>::decode(in);
  }
}

// As an array, so that a manifest is all head: as one block, many cores would lie out of band.
using Cpus = decltype(Options::cpus);
void write(Writer& out, const Cpus& values) {
  out.array(values.size());
  for (const int value : values) out.integer(value);
}
void read(Reader& in, Cpus& values) { values = Codec<Cpus>::decode(in); }

template <class T>
void write(Writer& out, const std::vector<T>& values) requires(!detail::is_payload<T>) {
  out.array(values.size());
  for (const T& value : values) write(out, value);
}
template <class T>
void read(Reader& in, std::vector<T>& values) requires(!detail::is_payload<T>) {
  values.clear();
  for (std::size_t left = in.array(); left != 0; --left) read(in, values.emplace_back());
}

template <class T>
void write(Writer& out, const T& value) {
  if constexpr (detail::is_payload<T>) {
    Codec<T>::encode(out, value);
  } else {
    with_parts(value, [&](const auto&... parts) {
      out.array(sizeof...(parts));
      (write(out, parts), ...);
    });
  }
}

template <class T>
void read(Reader& in, T& value) {
  if constexpr (kValues<T> != 0) {
    const std::size_t position = in.position();
    const std::int64_t number = in.integer();
    if (number < 0 || number >= kValues<T>) {
      in.fail_at(position, "a number below " + std::to_string(kValues<T>), std::to_string(number));
    }
    value = static_cast<T>(number);
  } else if constexpr (detail::is_payload<T>) {
    value = Codec<T>::decode(in);
  } else {
    with_parts(value, [&](auto&... parts) {
      detail::read_array_of(in, sizeof...(parts));
      (read(in, parts), ...);
    });
  }
}

/// What a plugin could not have registered, no worker reports.
void check(const Manifest& manifest) {
  const auto fail = [](const std::string& what) {
    throw InvalidArgument("the worker reports " + what + "; use worker and library of one build");
  };
  std::set<std::string_view> actors;
  for (const ActorManifest& actor : manifest.actors) {
    if (!actors.insert(actor.name).second) fail("actor \"" + actor.name + "\" twice");
    std::set<std::string_view> endpoints;
    for (const EndpointManifest& endpoint : actor.endpoints) {
      const std::string where =
          "endpoint \"" + endpoint.name + "\" of actor \"" + actor.name + "\"";
      if (!endpoints.insert(endpoint.name).second) fail(where + " twice");
      detail::check_options(where, endpoint.options, "correct it in FORGE_PLUGIN");
    }
  }
}

}  // namespace

std::optional<std::size_t> ActorManifest::index_of(std::string_view endpoint) const {
  const auto found = std::ranges::find(endpoints, endpoint, &EndpointManifest::name);
  if (found == endpoints.end()) return std::nullopt;
  return static_cast<std::size_t>(found - endpoints.begin());
}

const ActorManifest* Manifest::find(std::string_view actor) const {
  const auto found = std::ranges::find(actors, actor, &ActorManifest::name);
  return found == actors.end() ? nullptr : &*found;
}

Manifest describe(const Module& module, std::string plugin) {
  Manifest manifest{std::move(plugin)};
  for (const detail::ActorInfo& actor : module.actors()) {
    ActorManifest& described = manifest.actors.emplace_back(
        ActorManifest{actor.name, actor.doc, actor.constructor, actor.defaults});
    for (const detail::EndpointInfo& endpoint : actor.endpoints) {
      described.endpoints.push_back(
          {endpoint.name, endpoint.signature, endpoint.kind, endpoint.options, endpoint.coroutine});
    }
  }
  return manifest;
}

void encode(const Manifest& manifest, detail::Writer& out) { write(out, manifest); }

Manifest decode_manifest(detail::Reader& in) {
  Manifest manifest;
  read(in, manifest);
  check(manifest);
  for (ActorManifest& actor : manifest.actors) actor.build = manifest.build;
  return manifest;
}

}  // namespace forge::replicas
