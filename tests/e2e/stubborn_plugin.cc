// An actor whose start and end fail as a file says: it is read anew in each life.
#include <forge/plugin.h>

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>

namespace {

class Stubborn : public forge::ForgeActor {
 public:
  explicit Stubborn(std::string orders) : orders_(std::move(orders)) {}
  ~Stubborn() override {
    if (ordered("hang at the end")) hang();
  }
  void setup() override {
    if (ordered("hang in setup")) hang();
    if (ordered("abort in setup")) std::abort();
    if (ordered("throw in setup")) throw std::runtime_error("as ordered");
  }
  std::int64_t echo(std::int64_t x) const { return x; }
  std::int64_t sleep_ms(std::int64_t ms) const {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    return ms;
  }
  std::int64_t fail(std::int64_t) const { throw std::runtime_error("asked to fail"); }
  std::int64_t crash(std::int64_t x) const {
    ::kill(::getpid(), SIGABRT);
    return x;
  }

 private:
  bool ordered(const std::string& what) const {
    std::ifstream file(orders_);
    for (std::string line; std::getline(file, line);) {
      if (line == what) return true;
    }
    return false;
  }
  [[noreturn]] static void hang() {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

  std::string orders_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Stubborn, std::string>("Stubborn", "Fails as a file says.")
      .endpoint("echo", &Stubborn::echo)
      .endpoint("sleep_ms", &Stubborn::sleep_ms)
      .service_endpoint("sleep_50_ms", &Stubborn::sleep_ms,
                        {.exec_timeout = std::chrono::milliseconds(50)})
      .service_endpoint("fail", &Stubborn::fail, {.restart_on_error = true})
      .endpoint("crash", &Stubborn::crash);
}
