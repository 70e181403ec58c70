#include "gpu/pin_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

namespace forge::gpu {
namespace {

constexpr std::chrono::milliseconds kBetweenLooks{1};

Result<PinLock> refused(const std::string& what, int error) {
  return make_error(
      {ErrorCode::unavailable,
       "pinning: " + what + ": " + std::generic_category().message(error) + "; is /proc mounted?"});
}

}  // namespace

Result<PinLock> PinLock::take(int file, std::chrono::nanoseconds timeout) {
  // Opened anew, because a lock belongs to what open() made: descriptors that were handed from
  // process to process share one.
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  shm::FileDescriptor own(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (own.get() < 0) return refused("cannot open the shared memory's " + path, errno);
  const auto until = std::chrono::steady_clock::now() + timeout;
  while (::flock(own.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return refused("cannot lock the memory", errno);
    if (std::chrono::steady_clock::now() >= until) {
      return make_error({ErrorCode::unavailable,
                         "pinning: another process that pins the same shared memory did not "
                         "finish in time; look for a worker that hangs in its start"});
    }
    std::this_thread::sleep_for(kBetweenLooks);
  }
  return PinLock(std::move(own));
}

}  // namespace forge::gpu
