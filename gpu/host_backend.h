// The backend of a worker without a GPU: "device memory" is host memory, and a stream does its work
// at once. It behaves as the interface says, so that all that uses a backend runs on any machine.
#pragma once

#include <cstddef>
#include <memory>

#include "gpu/backend.h"

namespace forge::gpu {

/// `memory` is what the device has, in bytes; nothing is taken before buffers need it.
std::unique_ptr<Backend> make_host_backend(std::size_t memory = std::size_t{1} << 30);

}  // namespace forge::gpu
