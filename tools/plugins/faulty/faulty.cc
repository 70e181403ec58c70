#include "faulty.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

namespace faulty {

namespace {

using Clock = std::chrono::steady_clock;

/// True for the first process that asks for this file.
bool first_to_create(const std::string& marker) {
  const int fd = ::open(marker.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) {
    if (errno == EEXIST) return false;
    throw std::system_error(errno, std::generic_category(), "cannot create marker " + marker);
  }
  ::close(fd);
  return true;
}

}  // namespace

std::int64_t Faulty::pid() const { return ::getpid(); }

void Faulty::record(const std::string& path, std::int64_t value) const {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "cannot open " + path);
  const std::string line = std::to_string(value) + "\n";
  const bool written = ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  ::close(fd);
  if (!written) throw std::runtime_error("cannot append a line to " + path);
}

void Faulty::record_and_sleep(const std::string& path, std::int64_t value, std::int64_t ms) const {
  record(path, value);
  sleep_ms(ms);
}

void Faulty::sleep_ms(std::int64_t ms) const {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

void Faulty::spin_ms(std::int64_t ms) const {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(ms);
  while (Clock::now() < end) {
  }
}

void Faulty::throw_error(const std::string& text) const { throw std::runtime_error(text); }
void Faulty::throw_int(std::int64_t value) const { throw value; }
void Faulty::throw_forge(const std::string& text) const { throw forge::InvalidArgument(text); }

void Faulty::abort() const { std::abort(); }
void Faulty::exit(std::int64_t status) const { ::_exit(static_cast<int>(status)); }

void Faulty::segfault() const {
  // A page that may not be touched: undefined for the hardware only, so sanitizers let it happen.
  void* const page = ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *static_cast<volatile char*>(page) = 1;
}

void Faulty::kill() const { ::kill(::getpid(), SIGKILL); }
void Faulty::kill_once(const std::string& marker) const {
  if (first_to_create(marker)) kill();
}
void Faulty::stop() const { ::kill(::getpid(), SIGSTOP); }

std::uint64_t Faulty::leak(std::uint64_t size) const {
  // Kept for ever by the process, not only by the actor: nothing gives it back.
  static auto& held = *new std::vector<forge::Bytes>;
  held.emplace_back(size, std::byte{1});
  std::uint64_t total = 0;
  for (const forge::Bytes& block : held) total += block.size();
  return total;
}

void commit(const std::string& fault, std::int64_t ms, const std::string& marker) {
  const Faulty self;
  if (fault.empty() || fault == "none") return;
  if (!marker.empty() && !first_to_create(marker)) return;
  if (fault == "throw") return self.throw_error("faulty on demand");
  if (fault == "throw_int") return self.throw_int(ms);
  if (fault == "sleep") return self.sleep_ms(ms);
  if (fault == "spin") return self.spin_ms(ms);
  if (fault == "abort") return self.abort();
  if (fault == "exit") return self.exit(ms);
  if (fault == "segfault") return self.segfault();
  if (fault == "kill") return self.kill();
  throw std::invalid_argument("no fault \"" + fault + "\"; see faulty.h for those there are");
}

namespace {

/// All three actors have the same endpoints; "_idempotent" twins may be executed again.
template <class A>
void add_endpoints(forge::ActorBuilder<A> actor) {
  const forge::EndpointOptions idempotent{.idempotent = true};
  actor.endpoint("echo", &Faulty::echo)
      .endpoint("pid", &Faulty::pid)
      .endpoint("calls", &Faulty::calls)
      .endpoint("make_bytes", &Faulty::make_bytes)
      .endpoint("record", &Faulty::record)
      .endpoint("record_and_sleep", &Faulty::record_and_sleep)
      .endpoint("sleep_ms", &Faulty::sleep_ms)
      .endpoint("spin_ms", &Faulty::spin_ms)
      .endpoint("throw_error", &Faulty::throw_error)
      .endpoint("throw_int", &Faulty::throw_int)
      .endpoint("throw_forge", &Faulty::throw_forge)
      .endpoint("abort", &Faulty::abort)
      .endpoint("exit", &Faulty::exit)
      .endpoint("segfault", &Faulty::segfault)
      .endpoint("kill", &Faulty::kill)
      .endpoint("kill_once", &Faulty::kill_once)
      .endpoint("stop", &Faulty::stop)
      .endpoint("leak", &Faulty::leak)
      .service_endpoint("echo_idempotent", &Faulty::echo, idempotent)
      .service_endpoint("record_idempotent", &Faulty::record, idempotent)
      .service_endpoint("record_and_sleep_idempotent", &Faulty::record_and_sleep, idempotent)
      .service_endpoint("sleep_ms_idempotent", &Faulty::sleep_ms, idempotent)
      .service_endpoint("throw_error_idempotent", &Faulty::throw_error, idempotent)
      .service_endpoint("abort_idempotent", &Faulty::abort, idempotent)
      .service_endpoint("kill_idempotent", &Faulty::kill, idempotent)
      .service_endpoint("kill_once_idempotent", &Faulty::kill_once, idempotent);
}

}  // namespace
}  // namespace faulty

FORGE_PLUGIN(m) {
  using namespace faulty;
  add_endpoints(m.actor<Faulty>("Faulty", "Fails in one of its endpoints."));
  add_endpoints(m.actor<FaultyConstructor, std::string, std::int64_t, std::string>(
      "FaultyConstructor", "Commits a fault in its constructor: fault, ms, marker."));
  add_endpoints(m.actor<FaultySetup, std::string, std::int64_t, std::string>(
      "FaultySetup", "Commits a fault in setup(): fault, ms, marker."));
}
