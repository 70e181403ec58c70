// An actor that tells which device its worker was given, and can lose it.
#include <forge/plugin.h>
#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kDeviceLost = 86;  // as a worker ends whose device is lost

class Placed : public forge::ForgeActor {
 public:
  /// Does not come up while `folder` holds a file "<device>.lost" or "<device>.throws".
  explicit Placed(std::string folder) : folder_(std::move(folder)) {}
  void setup() override {
    const std::string device = variable("FORGE_DEVICE");
    if (std::filesystem::exists(folder_ + "/" + device + ".lost")) ::_exit(kDeviceLost);
    if (std::filesystem::exists(folder_ + "/" + device + ".throws"))
      throw std::runtime_error("no weights for this device");
  }

  std::string variable(const std::string& name) const {
    const char* const value = std::getenv(name.c_str());
    return value == nullptr ? "(unset)" : value;
  }
  std::vector<int> cores() const {
    cpu_set_t set;
    CPU_ZERO(&set);
    ::sched_getaffinity(0, sizeof(set), &set);
    std::vector<int> found;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(static_cast<std::size_t>(core), &set)) found.push_back(core);
    }
    return found;
  }
  int plus_one(int value) const { return value + 1; }
  void lose_device() const { ::_exit(kDeviceLost); }
  /// The first execution of all loses its device, and answers nothing.
  std::string lose_device_once() const {
    const std::string marker = folder_ + "/was_lost";
    if (std::filesystem::exists(marker)) return variable("FORGE_DEVICE");
    std::ofstream(marker) << "x";
    ::_exit(kDeviceLost);
  }
  void sleep_for_ever() const {
    for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
  }

 private:
  std::string folder_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Placed, std::string>("Placed")
      .endpoint("variable", &Placed::variable)
      .endpoint("cores", &Placed::cores)
      .endpoint("plus_one", &Placed::plus_one)
      .endpoint("lose_device", &Placed::lose_device)
      .service_endpoint("lose_device_once", &Placed::lose_device_once, {.idempotent = true})
      .endpoint("sleep_for_ever", &Placed::sleep_for_ever);
}
