// A plugin whose actor breaks out of its role: it writes over its own response file, and tries to
// write where it may not.
#include <fcntl.h>
#include <forge/plugin.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <random>
#include <span>
#include <string>

#include "replicas/worker.h"
#include "shm/control_file.h"

namespace {

using forge::replicas::kArenaFd;
using forge::replicas::kRequestFd;
using forge::replicas::kResponseFd;

std::size_t size_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? static_cast<std::size_t>(status.st_size) : 0;
}

void* map(int fd, int protection) {
  return ::mmap(nullptr, forge::shm::kPage, protection, MAP_SHARED, fd, 0);
}

/// What kept a system call from doing its work; 0: nothing.
int why_not(bool failed) { return failed ? errno : 0; }

/// All ways to write to a file that is only to be read.
void try_to_write(int fd, const std::string& name, std::map<std::string, int>& result) {
  const char byte = 'x';
  const auto size = static_cast<off_t>(size_of(fd));
  result[name + " write"] = why_not(::pwrite(fd, &byte, 1, 0) < 0);
  result[name + " map"] = why_not(map(fd, PROT_READ | PROT_WRITE) == MAP_FAILED);
  result[name + " shrink"] = why_not(::ftruncate(fd, size / 2) != 0);
  result[name + " grow"] = why_not(::ftruncate(fd, size * 2) != 0);
  result[name + " punch"] =
      why_not(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) != 0);
  void* const readable = map(fd, PROT_READ);
  result[name + " mprotect"] =
      why_not(::mprotect(readable, forge::shm::kPage, PROT_READ | PROT_WRITE) != 0);
  const int again = ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR | O_CLOEXEC);
  result[name + " reopen, write"] = why_not(again < 0 || ::pwrite(again, &byte, 1, 0) < 0);
  result[name + " reopen, map"] =
      why_not(again < 0 || map(again, PROT_READ | PROT_WRITE) == MAP_FAILED);
}

class Broken : public forge::ForgeActor {
 public:
  Broken() {
    const std::size_t size = size_of(kResponseFd);
    void* const start = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, kResponseFd, 0);
    if (start == MAP_FAILED) throw forge::Unavailable("the response file cannot be mapped");
    file_ = {static_cast<std::byte*>(start), size};
  }

  std::int64_t work(std::int64_t value) const { return value + 1; }

  /// All ring indices; then it waits for what it deserves.
  void scribble_indices(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    auto& file = *reinterpret_cast<forge::shm::ResponseFile*>(file_.data());
    file.requests_head.position.store(random());
    file.started.position.store(random());
    file.releases_head.position.store(random());
    file.responses_tail.position.store(random());
    for (;;) ::pause();
  }

  /// All slots, and it hands the next one over; then it waits likewise.
  void scribble_slots(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    auto& file = *reinterpret_cast<forge::shm::ResponseFile*>(file_.data());
    for (auto& slot : file.responses) {
      for (auto& byte : std::as_writable_bytes(std::span(&slot, 1))) byte = std::byte(random());
      slot.kind = static_cast<forge::shm::ResponseKind>(4 + random() % 252);
    }
    file.responses_tail.position.fetch_add(1);
    for (;;) ::pause();
  }

  /// Bytes anywhere; of the first replica only, wherever the call may have been sent.
  void scribble_bytes(std::uint64_t seed, std::uint64_t count) {
    if (forge::context().replica() != 0) return;
    std::mt19937_64 random(seed);
    for (; count != 0; --count) {
      const std::size_t at = random() % (forge::shm::kAnswersOffset + 65'536);
      file_[at] = std::byte(random());
    }
  }

  /// What it tried to what it must not, and why it could not (errno).
  std::map<std::string, int> trespass() const {
    std::map<std::string, int> result;
    try_to_write(kRequestFd, "requests", result);
    try_to_write(kArenaFd, "arena", result);
    const auto size = static_cast<off_t>(file_.size());
    result["responses shrink"] = why_not(::ftruncate(kResponseFd, size / 2) != 0);
    result["responses grow"] = why_not(::ftruncate(kResponseFd, size * 2) != 0);
    result["responses seal"] = why_not(::fcntl(kResponseFd, F_ADD_SEALS, F_SEAL_WRITE) != 0);
    return result;
  }

 private:
  std::span<std::byte> file_;
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Broken>("Broken", "Writes where it should not.")
      .endpoint("work", &Broken::work)
      .endpoint("work_beside_it", &Broken::work)
      .endpoint("scribble_indices", &Broken::scribble_indices)
      .endpoint("scribble_slots", &Broken::scribble_slots)
      .endpoint("scribble_bytes", &Broken::scribble_bytes)
      .endpoint("trespass", &Broken::trespass);
}
