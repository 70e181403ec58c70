// Where a worker runs: on the core it is pinned to, or near the device it was given.
#pragma once

#include "gpu/backend_loader.h"

namespace forge::replicas {

/// Cores near a worker's device, in its environment, as the kernel lists them; not set where the machine does
/// not say, or Options::cpus do.
inline constexpr const char* kCpusVariable = "FORGE_DEVICE_CPUS";
/// These two are the controller's to set.
inline constexpr const char* kDeviceVariables[] = {gpu::kDeviceVariable, kCpusVariable};

/// Keeps this process and the threads it will start to `cpu`, or, if that is negative, to those cores near
/// its device on which it may run now. Memory follows: the kernel takes it from the node of the core
/// that first touches it. What cannot be done is said on stderr, and left.
void settle(int cpu);

}  // namespace forge::replicas
