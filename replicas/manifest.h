// Manifest: what a plugin offers, as plain data. A worker makes it from the Module and reports it;
// the controller, which runs no plugin code, checks calls and options against it.
#pragma once

#include <forge/module.h>
#include <forge/options.h>
#include <forge/wire.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace forge::replicas {

struct EndpointManifest {
  std::string name;
  std::string signature;  ///< of one element, e.g. "i64(i64,i64)"
  EndpointKind kind = EndpointKind::plain;
  EndpointOptions options{};
  bool coroutine = false;  ///< its calls interleave
};

struct ActorManifest {
  std::string name;
  std::string doc;
  std::vector<std::string> constructor;  ///< type strings of its arguments
  Options defaults{};                    ///< without routers and endpoints
  std::vector<EndpointManifest> endpoints{};
  std::string build{};  ///< its plugin's, see Manifest; does not travel

  /// The index by which requests name an endpoint.
  std::optional<std::size_t> index_of(std::string_view endpoint) const;
};

struct Manifest {
  std::string plugin;  ///< as it was named when it was loaded; empty: linked-in actors
  std::vector<ActorManifest> actors{};
  std::string build{};   ///< what the worker found (replicas/build.h)
  bool trusted = false;  ///< by the embedding program, whoever can write its file; does not travel

  const ActorManifest* find(std::string_view actor) const;
};

Manifest describe(const Module& module, std::string plugin);

void encode(const Manifest& manifest, detail::Writer& out);
/// Throws InvalidArgument if the bytes are not a manifest.
Manifest decode_manifest(detail::Reader& in);

}  // namespace forge::replicas
