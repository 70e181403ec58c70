// How the mlp plugin registers its batched endpoints, for programs that want to change one thing
// about it and keep the rest.
#pragma once

#include <forge/options.h>

#include <chrono>

namespace forge::mlp {

/// 64 rows read the weights as often as one does. They only compute, so they may be run again.
inline EndpointOptions serving() {
  return {.batch_size = 64, .batch_timeout = std::chrono::microseconds(500), .idempotent = true};
}

}  // namespace forge::mlp
