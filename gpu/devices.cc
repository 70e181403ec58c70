#include "gpu/devices.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>
#include <tuple>

namespace forge::gpu {
namespace {

namespace fs = std::filesystem;

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const auto first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

int to_int(std::string_view text, int otherwise) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : otherwise;
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](char c) {
    return 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return out;
}

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return std::string(trim(line));
}

/// One "Key:   value" file of the driver.
std::optional<Device> read_device(const fs::path& folder, const fs::path& root) {
  std::ifstream in(folder / "information");
  Device device;
  device.bus_id = lower_case(folder.filename().string());
  for (std::string line; std::getline(in, line);) {
    const std::string_view view = line;
    const auto colon = view.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view key = trim(view.substr(0, colon));
    const std::string_view value = trim(view.substr(colon + 1));
    if (key == "Model") device.model = value;
    if (key == "GPU UUID") device.uuid = value;
    if (key == "Bus Location" && !value.empty()) device.bus_id = lower_case(value);
    if (key == "Device Minor") device.minor = to_int(value, -1);
    if (key == "GPU Excluded" && value == "Yes") return std::nullopt;
  }
  // The driver writes question marks for a device that it has not managed to start.
  if (device.uuid.empty() || device.uuid.find('?') != std::string::npos) return std::nullopt;
  device.numa_node =
      to_int(first_line(root / "sys/bus/pci/devices" / device.bus_id / "numa_node"), -1);
  if (device.numa_node >= 0) {
    device.cpus = first_line(root / "sys/devices/system/node" /
                             ("node" + std::to_string(device.numa_node)) / "cpulist");
  }
  return device;
}

/// The device that one entry of CUDA_VISIBLE_DEVICES names, if it is one.
std::optional<Device> find_device(const std::vector<Device>& all, std::string_view entry) {
  if (entry.substr(0, 4) == "MIG-") {
    Device part;
    part.uuid = entry;
    part.model = "MIG instance";
    return part;
  }
  const auto named = [&](const Device& device) {
    return entry.substr(0, 4) == "GPU-" ? std::string_view(device.uuid).starts_with(entry)
                                        : device.index == to_int(entry, -1);
  };
  const auto found = std::find_if(all.begin(), all.end(), named);
  if (found == all.end() || std::any_of(found + 1, all.end(), named)) return std::nullopt;
  return *found;
}

}  // namespace

std::vector<Device> list_devices(const fs::path& root) {
  std::vector<Device> devices;
  std::error_code none;  // no folder: no driver, no devices
  for (fs::directory_iterator it(root / "proc/driver/nvidia/gpus", none), end; it != end;
       it.increment(none)) {
    if (auto device = read_device(it->path(), root)) devices.push_back(std::move(*device));
  }
  // The domain may have four or eight digits, so shorter comes first among equals in value.
  std::sort(devices.begin(), devices.end(), [](const Device& a, const Device& b) {
    return std::tuple(a.bus_id.size(), std::string_view(a.bus_id)) <
           std::tuple(b.bus_id.size(), std::string_view(b.bus_id));
  });
  for (std::size_t i = 0; i < devices.size(); ++i) devices[i].index = static_cast<int>(i);
  return devices;
}

std::vector<Device> visible_devices(const std::vector<Device>& all, std::string_view variable) {
  std::vector<Device> visible;
  for (std::size_t begin = 0; begin <= variable.size();) {
    const std::size_t end = std::min(variable.find(',', begin), variable.size());
    const auto device = find_device(all, trim(variable.substr(begin, end - begin)));
    if (!device) break;
    const bool twice = std::any_of(visible.begin(), visible.end(),
                                   [&](const Device& other) { return other.uuid == device->uuid; });
    if (twice) return {};
    visible.push_back(*device);
    begin = end + 1;
  }
  return visible;
}

std::vector<Device> visible_devices(const std::vector<Device>& all) {
  const char* const variable =
      std::getenv("CUDA_VISIBLE_DEVICES");  // NOLINT(concurrency-mt-unsafe)
  return variable == nullptr ? all : visible_devices(all, variable);
}

std::vector<int> parse_cpu_list(std::string_view text) {
  constexpr int kMost = 1 << 16;  // more than any kernel numbers
  std::vector<int> cpus;
  text = trim(text);
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view range = text.substr(begin, end - begin);
    const std::size_t dash = std::min(range.find('-'), range.size());
    const int first = to_int(range.substr(0, dash), -1);
    const int last = dash == range.size() ? first : to_int(range.substr(dash + 1), -1);
    if (first < 0 || last < first || last >= kMost) return {};
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    begin = end + 1;
  }
  return cpus;
}

}  // namespace forge::gpu
