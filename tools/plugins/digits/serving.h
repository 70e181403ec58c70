// How the digits plugin registers its endpoints, for programs that want to change one thing about
// it and keep the rest.
#pragma once

#include <forge/options.h>

#include <chrono>

namespace forge::digits {

/// A batch is one matrix product. 32 images are enough to fill it; a lone one waits a millisecond
/// for company, a few times what a full batch takes.
inline EndpointOptions serving() {
  return {.batch_size = 32, .batch_timeout = std::chrono::milliseconds(1), .idempotent = true};
}

}  // namespace forge::digits
