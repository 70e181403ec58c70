#include "core/device_desk.h"

#include <cstdlib>
#include <filesystem>
#include <string>

namespace forge::core {

std::shared_ptr<DeviceDesk> DeviceDesk::acquire() {
  static std::mutex mutex;
  static std::weak_ptr<DeviceDesk> current;
  const std::lock_guard lock(mutex);
  auto desk = current.lock();
  if (!desk) current = desk = std::make_shared<DeviceDesk>();
  return desk;
}

gpu::DeviceBook DeviceDesk::open_book() {
  const char* const fake = std::getenv("FORGE_FAKE_DEVICES");  // tests, on machines without a GPU
  auto all = gpu::list_devices(fake == nullptr ? std::filesystem::path("/") : fake);
  const char* const variable = std::getenv("CUDA_VISIBLE_DEVICES");
  if (variable == nullptr) {
    const char* const note = all.empty() ? " (no NVIDIA driver lists any)" : "";
    return gpu::DeviceBook(std::move(all), note);
  }
  auto visible = gpu::visible_devices(all, variable);
  return gpu::DeviceBook(std::move(visible), " (of " + std::to_string(all.size()) +
                                                 ", by CUDA_VISIBLE_DEVICES=" + variable + ")");
}

}  // namespace forge::core
