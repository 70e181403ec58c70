// Where a controller can be found by others of the same user: a socket of its own in a folder that only
// this user can enter, named by its process. A stale one is that of a process that has ended.
#pragma once

#include <forge/result.h>

#include <filesystem>
#include <string>
#include <vector>

#include "shm/file_descriptor.h"

namespace forge::core {

/// The folders where sockets may lie that are there, and only this user's: below $XDG_RUNTIME_DIR,
/// /run/user/<user id> and /tmp/forge-<user id>.
std::vector<std::filesystem::path> socket_folders();
/// The first of them, made if it is not there. Error: Unavailable.
Result<std::filesystem::path> make_socket_folder();

/// A socket that listens, and its name.
struct Listener {
  shm::FileDescriptor fd;
  std::filesystem::path path;
};
/// `<folder>/<process id>.sock`, with -2 and so on for further controllers of this process; mode 0600.
/// It does not block. A stale socket by that name makes room. Error: Unavailable.
Result<Listener> listen_in(const std::filesystem::path& folder);

/// The user and the process at the other end; of a socket that listens, who made it. False if the
/// system does not say. A process of another namespace is 0.
bool peer_of(int fd, unsigned& user, int& process);

/// One that answers there.
struct FoundSocket {
  std::filesystem::path path;
  int process = 0;
};
/// All of this user's, by process. Removes stale ones.
std::vector<FoundSocket> find_sockets();
/// Error: Unavailable if nobody listens there, or another user does.
Result<shm::FileDescriptor> connect_to(const std::filesystem::path& path);

}  // namespace forge::core
