// The backend without a GPU: "device memory" is host memory, and a stream does its work at once. It
// behaves as the interface says, so that all that uses a backend runs on any machine.
//
// It also poses as a device, for tests of what happens on one: its memory is out of bounds for the
// host there too, and it fails where it is told to.
#pragma once

#include <forge/result.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "gpu/backend.h"

namespace forge::gpu {

/// `memory` is what the device has, in bytes; nothing is taken before buffers need it.
std::unique_ptr<Backend> make_host_backend(std::size_t memory = std::size_t{1} << 30);

/// What goes wrong on a host that poses as a device.
struct HostFaults {
  std::uint64_t sticky_after = 0;  ///< this copy and everything later fails; 0: none does
  bool no_memory = false;          ///< buffers never fit
  bool busy = false;               ///< it cannot be opened: another process has it
  bool start_fails = false;        ///< it cannot be opened
  std::string device{};            ///< UUID of the one device that has the faults; empty: all
  std::string once{};              ///< a file: only the process that makes it has the faults
};

/// "sticky_after=3,device=GPU-fake-1,once=/tmp/x". Error: InvalidArgument if a word is not known.
Result<HostFaults> parse_host_faults(std::string_view text);

struct HostDeviceSpec {
  int ordinal = 0;
  std::string uuid = "GPU-fake";
  std::size_t memory = std::size_t{1} << 30;
  bool pins_read_only = false;
  HostFaults faults{};
};

/// Errors: Unavailable if a fault says so.
Result<std::unique_ptr<Backend>> make_host_device(const HostDeviceSpec& spec);

}  // namespace forge::gpu
