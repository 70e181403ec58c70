// forge call: a controller of its own, one replica, one call.
#include <forge/service.h>

#include <cstdio>
#include <filesystem>

#include "core/engine.h"
#include "core/host.h"
#include "replicas/manifest.h"
#include "replicas/plugin_file.h"
#include "tools/forge/commands.h"
#include "tools/forge/json_types.h"

namespace forge::tool {
namespace {

using core::Json;

std::string list(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + item;
  return text.empty() ? "none" : text;
}

replicas::Manifest describe(core::Host& host, const std::string& plugin) {
  if (!replicas::environment_trusts_plugins()) {
    const Status status = replicas::check_plugin_file(plugin);
    if (!status.ok()) throw_status(status);
  }
  core::Launch launch;
  launch.name = "describe " + std::filesystem::path(plugin).filename().string();
  launch.plugin = plugin;
  launch.options.arena_bytes = std::size_t{256} * 1024;
  launch.options.wait = Wait::block;
  launch.options.start_timeout = std::chrono::minutes(1);
  const auto engine = host.launch(std::move(launch));
  const auto bytes = engine->description();
  engine->shutdown(std::chrono::seconds(1));
  detail::Reader reader{std::span<const std::byte>(bytes)};
  return replicas::decode_manifest(reader);
}

const replicas::ActorManifest& find_actor(const replicas::Manifest& manifest,
                                          const std::string& name) {
  if (const auto* actor = manifest.find(name)) return *actor;
  std::vector<std::string> names;
  for (const auto& actor : manifest.actors) names.push_back(actor.name);
  throw UnknownActor("'" + manifest.plugin + "' has no actor '" + name +
                     "'; it has: " + list(names));
}

const replicas::EndpointManifest& find_endpoint(const replicas::ActorManifest& actor,
                                                const std::string& name) {
  std::vector<std::string> names;
  for (const auto& endpoint : actor.endpoints) {
    if (detail::is_hidden(endpoint.name)) continue;
    if (endpoint.name == name) return endpoint;
    names.push_back(endpoint.name + " " + endpoint.signature);
  }
  throw UnknownEndpoint("actor '" + actor.name + "' has no endpoint '" + name +
                        "'; it has: " + list(names));
}

/// Constructor arguments, as ActorFactory encodes them.
void put_constructor(const replicas::ActorManifest& actor, const std::string& init,
                     core::Launch& launch) {
  const Json values = Json::parse(init, nullptr, false);
  if (!values.is_array() || values.size() != actor.constructor.size()) {
    throw InvalidArgument("actor '" + actor.name + "' is constructed from (" +
                          (actor.constructor.empty() ? "" : list(actor.constructor)) +
                          "); give --init a JSON array of them, not '" + init + "'");
  }
  detail::Writer writer;
  writer.array(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    encode(writer, parse_type(actor.constructor[i]), values[i],
           "constructor argument " + std::to_string(i + 1));
  }
  launch.arguments_head = writer.head().size();
  launch.arguments.resize(writer.block_size());
  writer.write_to(launch.arguments.data());
}

std::shared_ptr<core::Engine> start(core::Host& host, const replicas::Manifest& manifest,
                                    const replicas::ActorManifest& actor,
                                    const CallWanted& wanted) {
  core::Launch launch;
  launch.name = actor.name;
  launch.plugin = manifest.plugin;
  launch.actor = actor.name;
  launch.options = actor.defaults;
  launch.options.num_replicas = 1;
  launch.options.min_replicas.reset();
  launch.options.max_replicas.reset();
  launch.options.spares = 0;
  launch.options.autoscaling.enabled = false;
  auto own = std::make_shared<replicas::ActorManifest>(actor);
  for (auto& endpoint : own->endpoints) endpoint.options.router = "round_robin";  // to one replica
  launch.manifest = std::move(own);
  put_constructor(actor, wanted.init, launch);
  return host.launch(std::move(launch));
}

/// Waits, and gives the value.
Json result_of(detail::AnswerState& state, const Type& type) {
  struct Abandon {
    detail::AnswerState& state;
    ~Abandon() { state.abandon(); }
  } abandon{state};
  state.wait(std::nullopt);
  if (auto error = state.failure()) error->raise();
  if (auto error = state.error(0)) error->raise();
  if (type.kind == Type::Kind::nothing) return nullptr;
  detail::Reader reader = state.value(0, 0);
  return decode(reader, type);
}

Json call(core::Engine& engine, const replicas::EndpointManifest& endpoint,
          const CallWanted& wanted) {
  const SignatureTypes types = parse_signature(endpoint.signature);
  if (types.arguments.size() != wanted.arguments.size()) {
    throw InvalidArgument("'" + endpoint.name + "' is " + endpoint.signature + ": it takes " +
                          std::to_string(types.arguments.size()) + " arguments, but " +
                          std::to_string(wanted.arguments.size()) + " were given");
  }
  std::vector<Json> values;
  for (std::size_t i = 0; i < types.arguments.size(); ++i)
    values.push_back(parse_argument(types.arguments[i], wanted.arguments[i]));
  auto ref = engine.bind(endpoint.name, endpoint.signature, false);
  if (wanted.timeout_s > 0)
    ref.options.timeout =
        std::chrono::nanoseconds(static_cast<std::int64_t>(wanted.timeout_s * 1e9));
  detail::Writer& writer = detail::arguments_writer(ref);
  writer.array(values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    encode(writer, types.arguments[i], values[i], "argument " + std::to_string(i + 1));
  detail::AnswerState* const state = detail::submit(ref, detail::CallMode::route, writer);
  return result_of(*state, types.result);
}

}  // namespace

int call(const CallWanted& wanted) {
  ControllerOptions options;
  options.name = "forge call";
  options.observable = false;  // it lives for one call
  const auto host = core::Host::create(std::move(options));
  struct Close {
    core::Host& host;
    ~Close() { host.close(); }
  } close{*host};
  const auto manifest = describe(*host, std::filesystem::absolute(wanted.plugin));
  const auto& actor = find_actor(manifest, wanted.actor);
  const auto& endpoint = find_endpoint(actor, wanted.endpoint);
  const auto engine = start(*host, manifest, actor, wanted);
  const Json result = call(*engine, endpoint, wanted);
  std::printf("%s\n", core::dump(result).c_str());
  return 0;
}

}  // namespace forge::tool
