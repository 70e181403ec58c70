#include "gpu/devices.h"

#include <algorithm>
#include <charconv>
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

int read_numa_node(const fs::path& root, const std::string& bus_id) {
  std::ifstream in(root / "sys/bus/pci/devices" / bus_id / "numa_node");
  std::string line;
  std::getline(in, line);
  return to_int(trim(line), -1);
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
  device.numa_node = read_numa_node(root, device.bus_id);
  return device;
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

}  // namespace forge::gpu
