// Where a worker runs: on the core it is pinned to, or near the device it was given.
#pragma once

namespace forge::replicas {

/// The UUID of a worker's device, in its environment; not set without one.
inline constexpr const char* kDeviceVariable = "FORGE_DEVICE";
/// Cores near it, as the kernel lists them; not set where the machine does not say, or Options::cpus do.
inline constexpr const char* kCpusVariable = "FORGE_DEVICE_CPUS";
/// Both are the controller's to set.
inline constexpr const char* kDeviceVariables[] = {kDeviceVariable, kCpusVariable};

/// Keeps this process and the threads it will start to `cpu`, or, if that is negative, to those cores near
/// its device on which it may run now. Memory follows: the kernel takes it from the node of the core
/// that first touches it. What cannot be done is said on stderr, and left.
void settle(int cpu);

}  // namespace forge::replicas
