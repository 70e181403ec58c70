// Devices that are none: the files of a driver, and FORGE_FAKE_DEVICES that names them. Workers run on the
// host then, as if they had one.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/e2e/fixture.h"

namespace forge::e2e {

/// A variable of our environment, set for as long as this lives. While no other thread reads any.
class ScopedVariable {
 public:
  ScopedVariable(std::string name, const std::string& value) : name_(std::move(name)) {
    ::setenv(name_.c_str(), value.c_str(), 1);  // NOLINT(concurrency-mt-unsafe)
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;
  ~ScopedVariable() { ::unsetenv(name_.c_str()); }  // NOLINT(concurrency-mt-unsafe)

 private:
  std::string name_;
};

/// "GPU-fake-0", "GPU-fake-1", …, for controllers that are made while this lives.
class FakeDevices {
 public:
  explicit FakeDevices(const std::vector<int>& numa_nodes) {
    for (std::size_t i = 0; i < numa_nodes.size(); ++i) {
      const std::string bus = "0000:0" + std::to_string(i + 1) + ":00.0";
      write("proc/driver/nvidia/gpus/" + bus + "/information",
            "Model: Fake\nGPU UUID: " + uuid(i) + "\nDevice Minor: " + std::to_string(i) + "\n");
      write("sys/bus/pci/devices/" + bus + "/numa_node", std::to_string(numa_nodes[i]) + "\n");
    }
  }
  FakeDevices(const FakeDevices&) = delete;
  FakeDevices& operator=(const FakeDevices&) = delete;

  static std::string uuid(std::size_t index) { return "GPU-fake-" + std::to_string(index); }

  void set_cores(int node, const std::string& list) const {
    write("sys/devices/system/node/node" + std::to_string(node) + "/cpulist", list + "\n");
  }

 private:
  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = folder_.file(name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  TemporaryFolder folder_;
  ScopedVariable variable_{"FORGE_FAKE_DEVICES", folder_.file("")};
};

}  // namespace forge::e2e
