#include "core/local_socket.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>

namespace forge::core {
namespace {

namespace fs = std::filesystem;
using shm::FileDescriptor;

constexpr const char* kEnding = ".sock";
constexpr const char* kUnborn = ".new";
/// Controllers of one process that can be found.
constexpr int kMostControllers = 64;
constexpr int kBacklog = 64;
/// As long as others wait to be let in, so do we.
constexpr std::chrono::milliseconds kTurn{5};
constexpr int kMostTurns = 400;

std::string reason() { return std::generic_category().message(errno); }

/// No link, ours, and nobody else's.
bool is_private(const fs::path& folder) {
  struct stat found {};
  return ::lstat(folder.c_str(), &found) == 0 && S_ISDIR(found.st_mode) &&
         found.st_uid == ::geteuid() && (found.st_mode & 077) == 0;
}

fs::path fallback() { return "/tmp/forge-" + std::to_string(::geteuid()); }

std::vector<fs::path> bases() {
  std::vector<fs::path> found;
  const char* const named = ::secure_getenv("XDG_RUNTIME_DIR");
  if (named != nullptr && *named == '/') found.emplace_back(named);
  found.emplace_back("/run/user/" + std::to_string(::geteuid()));
  found.push_back(fallback());
  return found;
}

bool address_of(const fs::path& path, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, path.c_str(), path.native().size());
  return true;
}

template <class Call>
int with_address(const fs::path& path, Call call) {
  sockaddr_un address{};
  if (!address_of(path, address)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  return call(reinterpret_cast<const sockaddr*>(&address), socklen_t{sizeof(address)});
}

FileDescriptor make_socket() {
  return FileDescriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

FileDescriptor try_to_connect(const fs::path& path) {
  FileDescriptor fd = make_socket();
  if (!fd || with_address(path, [&](const sockaddr* address, socklen_t size) {
               return ::connect(fd.get(), address, size);
             }) != 0)
    return {};
  return fd;
}

/// Nobody listens any more. A child that its process has forked may still hold it open.
bool is_stale(const fs::path& path) {
  struct stat found {};
  if (::lstat(path.c_str(), &found) != 0 || !S_ISSOCK(found.st_mode)) return false;
  const FileDescriptor fd = try_to_connect(path);
  if (!fd) return errno == ECONNREFUSED;
  unsigned user = 0;
  int process = 0;
  return peer_of(fd.get(), user, process) && process != 0 && ::kill(process, 0) != 0 &&
         errno == ESRCH;
}

bool remove_if_stale(const fs::path& path) { return is_stale(path) && ::unlink(path.c_str()) == 0; }

/// What killed programs have left. Somebody may be about to listen at one that has no name yet: for a
/// moment, not for a minute.
void remove_stale_ones(const fs::path& folder) {
  std::error_code ignored;
  for (fs::directory_iterator it(folder, ignored), end; !ignored && it != end;
       it.increment(ignored)) {
    const fs::path& path = it->path();
    std::error_code none;
    const auto age = fs::file_time_type::clock::now() - fs::last_write_time(path, none);
    if (path.extension() == kEnding ||
        (path.extension() == kUnborn && !none && age > std::chrono::minutes(1)))
      (void)remove_if_stale(path);
  }
}

/// Gives what listens at `from` the name `to`, unless that is somebody's.
bool name_it(const fs::path& from, const fs::path& to) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (::link(from.c_str(), to.c_str()) == 0) {
      ::unlink(from.c_str());
      return true;
    }
    if (errno != EEXIST) break;
    if (!remove_if_stale(to)) {
      errno = EEXIST;
      return false;
    }
  }
  // Some file systems have no second names.
  return errno != EEXIST && ::access(to.c_str(), F_OK) != 0 &&
         ::rename(from.c_str(), to.c_str()) == 0;
}

}  // namespace

std::vector<fs::path> socket_folders() {
  std::vector<fs::path> found;
  for (const fs::path& base : bases()) {
    const fs::path folder = base / "forge";
    if (is_private(base) && is_private(folder) &&
        std::find(found.begin(), found.end(), folder) == found.end())
      found.push_back(folder);
  }
  return found;
}

Result<fs::path> make_socket_folder() {
  std::string tried;
  for (const fs::path& base : bases()) {
    if (base == fallback()) ::mkdir(base.c_str(), 0700);
    const fs::path folder = base / "forge";
    if (is_private(base)) {
      ::mkdir(folder.c_str(), 0700);
      if (is_private(folder)) return folder;
    }
    tried += (tried.empty() ? "" : ", ") + base.string();
  }
  return make_error({ErrorCode::unavailable, "none of " + tried +
                                                 " is a folder of this user alone (mode 0700); set "
                                                 "XDG_RUNTIME_DIR to one"});
}

Result<Listener> listen_in(const fs::path& folder) {
  static std::mutex making;  // two controllers of one process must not take each other's for stale
  const std::lock_guard lock(making);
  remove_stale_ones(folder);
  for (int number = 1; number <= kMostControllers; ++number) {
    Listener made{make_socket(),
                  folder / (std::to_string(::getpid()) +
                            (number == 1 ? "" : "-" + std::to_string(number)) + kEnding)};
    // It gets its name when it listens already: in between, others would take it for stale.
    const fs::path unborn = made.path.string() + kUnborn;
    ::unlink(unborn.c_str());
    if (!made.fd ||
        with_address(unborn,
                     [&](const sockaddr* address, socklen_t size) {
                       return ::bind(made.fd.get(), address, size);
                     }) != 0 ||
        ::chmod(unborn.c_str(), 0600) != 0 || ::listen(made.fd.get(), kBacklog) != 0) {
      const std::string why = reason();
      ::unlink(unborn.c_str());
      return make_error(
          {ErrorCode::unavailable, "cannot listen at " + made.path.string() + ": " + why});
    }
    if (name_it(unborn, made.path)) return made;
    const int error = errno;
    ::unlink(unborn.c_str());
    errno = error;
    if (error != EEXIST) {
      return make_error(
          {ErrorCode::unavailable, "cannot make " + made.path.string() + ": " + reason()});
    }
  }
  return make_error({ErrorCode::unavailable, "this process has " +
                                                 std::to_string(kMostControllers) +
                                                 " controllers that can be found already"});
}

bool peer_of(int fd, unsigned& user, int& process) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  user = peer.uid;
  process = peer.pid;
  return true;
}

std::vector<FoundSocket> find_sockets() {
  std::vector<FoundSocket> found;
  for (const fs::path& folder : socket_folders()) {
    std::error_code ignored;
    for (fs::directory_iterator it(folder, ignored), end; !ignored && it != end;
         it.increment(ignored)) {
      const fs::path& path = it->path();
      if (path.extension() != kEnding || remove_if_stale(path)) continue;
      if (const int process = std::atoi(path.stem().c_str()); process > 0)
        found.push_back({path, process});
    }
  }
  std::sort(found.begin(), found.end(), [](const FoundSocket& a, const FoundSocket& b) {
    return std::pair(a.process, a.path) < std::pair(b.process, b.path);
  });
  return found;
}

Result<FileDescriptor> connect_to(const fs::path& path) {
  FileDescriptor fd = try_to_connect(path);
  for (int turn = 0; !fd && errno == EAGAIN && turn < kMostTurns; ++turn) {
    std::this_thread::sleep_for(kTurn);
    fd = try_to_connect(path);
  }
  if (!fd) {
    return make_error({ErrorCode::unavailable, "nobody answers at " + path.string() + ": " +
                                                   reason() + "; its controller may have ended"});
  }
  unsigned user = 0;
  int process = 0;
  if (!peer_of(fd.get(), user, process) || user != ::geteuid()) {
    return make_error(
        {ErrorCode::unavailable, path.string() + " belongs to another user; it is not used"});
  }
  return fd;
}

}  // namespace forge::core
