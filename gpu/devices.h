// The NVIDIA devices of this machine, found without a CUDA call: the controller must never make one.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace forge::gpu {

struct Device {
  int index = 0;       ///< in PCI bus order, from 0; what nvidia-smi shows
  std::string uuid;    ///< "GPU-…", as CUDA_VISIBLE_DEVICES takes it
  std::string model;   ///< "NVIDIA H100 80GB HBM3"
  std::string bus_id;  ///< "0000:01:00.0", lower case
  int minor = -1;      ///< of /dev/nvidia<minor>; -1: not known
  int numa_node = -1;  ///< memory nearest to it; -1: the machine does not say
};

/// What the driver lists under `root`/proc/driver/nvidia; empty without a driver. A device the driver
/// excludes, or whose UUID it cannot tell, cannot be handed to a worker and is left out. Another
/// `root` is for tests.
std::vector<Device> list_devices(const std::filesystem::path& root = "/");

}  // namespace forge::gpu
