#include "core/device_desk.h"

#include <cstdlib>
#include <filesystem>
#include <string>

namespace forge::core {
namespace {

std::optional<std::string> variable(const char* name) {
  const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

}  // namespace

std::shared_ptr<DeviceDesk> DeviceDesk::acquire() {
  static std::mutex mutex;
  static std::weak_ptr<DeviceDesk> current;
  const std::lock_guard lock(mutex);
  auto desk = current.lock();
  if (!desk) current = desk = std::make_shared<DeviceDesk>();
  return desk;
}

DeviceDesk::DeviceDesk()
    : fake_(variable("FORGE_FAKE_DEVICES")), visible_(variable("CUDA_VISIBLE_DEVICES")) {}

gpu::DeviceBook DeviceDesk::open_book() const {
  auto all = gpu::list_devices(fake_.value_or("/"));
  if (!visible_) {
    const char* const note = all.empty() ? " (no NVIDIA driver lists any)" : "";
    return gpu::DeviceBook(std::move(all), note);
  }
  auto visible = gpu::visible_devices(all, *visible_);
  return gpu::DeviceBook(std::move(visible), " (of " + std::to_string(all.size()) +
                                                 ", by CUDA_VISIBLE_DEVICES=" + *visible_ + ")");
}

}  // namespace forge::core
