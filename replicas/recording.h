// A recording: one request with all it refers to, in a file, to be run again under a debugger.
//
// The file is a block of wire.h behind a fixed prefix. It holds the setup call and the request as their
// worker saw them, and the bytes of the arena that these refer to. It trusts itself no more than a
// message from a worker is trusted: load() refuses whatever does not fit.
#pragma once

#include <forge/result.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "shm/control_file.h"

namespace forge::replicas {

struct Recording {
  /// Bytes that lay at `offset` of the arena.
  struct Piece {
    std::uint64_t offset = 0;
    std::vector<std::byte> bytes;
  };

  std::string request;  ///< service.endpoint, for people
  std::string reason;   ///< why it was recorded
  std::string program;  ///< that the actor was linked into; empty: it came from a plugin
  std::uint64_t arena_bytes = 0;
  shm::RequestSlot setup{};
  shm::RequestSlot call{};
  std::vector<Piece> pieces;
};

/// Writes a new file that only this user may read. Unavailable with what the system said.
Status save(const Recording& recording, const std::string& path);

/// InvalidArgument if the file cannot be read or is no recording of this build.
Result<Recording> load_recording(const std::string& path);

/// Runs setup and request in this process, on this thread, as a worker would, and says on standard
/// output what came of it. Exit status: 0 answered, 1 with an error, 2 could not be tried. If the
/// request kills its process, it kills this one.
int replay(const Recording& recording);

/// Is this process meant to replay? True if it was started as `program --forge-replay FILE`.
bool wants_replay(int argc, char** argv);
inline constexpr const char* kReplayFlag = "--forge-replay";

/// load_recording() and replay(), errors on standard error.
int run_replay(const std::string& path);

}  // namespace forge::replicas
