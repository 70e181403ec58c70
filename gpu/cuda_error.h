// What the numbers of CUDA's errors mean to forge. Here rather than beside the CUDA calls, because it
// needs no CUDA and is tested without; the numbers are part of CUDA's interface and do not change.
#pragma once

#include <forge/error.h>

#include <string_view>

namespace forge::gpu {

/// An error after which nothing in this process can use the device: only its end helps.
bool ends_the_process(int cuda_error) noexcept;

/// "<what>: <text> (CUDA error 46); <what to do>", and the code that goes with it. `what` names the
/// thing that failed, `text` is CUDA's own for the number. Ok for 0.
Status cuda_status(int cuda_error, std::string_view what, std::string_view text);

/// Why CUDA cannot be started with this driver, which has been asked for its version: 0 without one.
/// Versions are those of CUDA, 1000 * major + 10 * minor: the driver's newest, and what we need.
Status driver_status(int driver_version, int needed_version, std::string_view what);

}  // namespace forge::gpu
