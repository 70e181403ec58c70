// Arbitrary bytes as the manifest that a worker reports.
#include <forge/error.h>

#include <vector>

#include "replicas/manifest.h"
#include "tests/fuzz/input.h"

namespace forge::fuzz {
namespace {

using replicas::Manifest;

std::vector<std::byte> encode(const Manifest& manifest) {
  detail::Writer writer;
  writer.reset();
  replicas::encode(manifest, writer);
  require(!writer.has_blobs(), "a manifest is all head: only that is kept of a description");
  return {writer.head().begin(), writer.head().end()};
}

void check(const Manifest& manifest) {
  for (const auto& actor : manifest.actors) {
    require(manifest.find(actor.name) == &actor, "an actor is found by its name");
    for (std::size_t i = 0; i < actor.endpoints.size(); ++i) {
      const auto& endpoint = actor.endpoints[i];
      require(actor.index_of(endpoint.name) == i, "an endpoint is found by its name");
      require(endpoint.options.batch_size >= 1 && endpoint.options.batch_timeout.count() >= 0,
              "an endpoint's options are such as can be registered");
    }
  }
  const std::vector<std::byte> bytes = encode(manifest);
  detail::Reader reader(bytes);
  const Manifest again = replicas::decode_manifest(reader);
  require(encode(again) == bytes, "what was written reads back as it was");
}

}  // namespace
}  // namespace forge::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace forge;
  replicas::Manifest manifest;
  try {
    detail::Reader reader(std::as_bytes(std::span(data, size)));
    manifest = replicas::decode_manifest(reader);
  } catch (const InvalidArgument&) {
    return 0;
  }
  fuzz::check(manifest);
  return 0;
}
