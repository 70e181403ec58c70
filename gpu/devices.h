// The NVIDIA devices of this machine, found without a CUDA call: the controller must never make one.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace forge::gpu {

struct Device {
  int index = 0;       ///< in PCI bus order, from 0; what nvidia-smi shows
  std::string uuid;    ///< "GPU-…", as CUDA_VISIBLE_DEVICES takes it
  std::string model;   ///< "NVIDIA H100 80GB HBM3"
  std::string bus_id;  ///< "0000:01:00.0", lower case
  int minor = -1;      ///< of /dev/nvidia<minor>; -1: not known
  int numa_node = -1;  ///< memory nearest to it; -1: the machine does not say
  std::string cpus;    ///< cores of that node, as the kernel lists them: "0-15,32-47"; may be empty
};

/// What the driver lists under `root`/proc/driver/nvidia; empty without a driver. A device the driver
/// excludes, or whose UUID it cannot tell, cannot be handed to a worker and is left out. Another
/// `root` is for tests.
std::vector<Device> list_devices(const std::filesystem::path& root = "/");

/// Which of `all` a program with this CUDA_VISIBLE_DEVICES may use, in its order: indices, or UUIDs that
/// may be cut short where that is unique. As CUDA reads it: the first entry that names nothing ends the
/// list, a device named twice leaves none at all. Indices count in PCI bus order, which is CUDA's own
/// under CUDA_DEVICE_ORDER=PCI_BUS_ID; a part of a device ("MIG-…") is taken at its word.
std::vector<Device> visible_devices(const std::vector<Device>& all, std::string_view variable);
/// As the variable of this process says; all of them if it is not set.
std::vector<Device> visible_devices(const std::vector<Device>& all);

/// The numbers in a list like "0-3,8"; empty if it is no such list.
std::vector<int> parse_cpu_list(std::string_view text);

}  // namespace forge::gpu
