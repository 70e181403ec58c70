// The backend of a worker with a CUDA device.
#pragma once

#include <forge/result.h>

#include <memory>
#include <string>

#include "gpu/backend.h"

namespace forge::gpu::cuda {

/// Opens the device and measures its gathers. Errors: as make_backend() says.
Result<std::unique_ptr<Backend>> make_backend(const std::string& uuid);

}  // namespace forge::gpu::cuda
