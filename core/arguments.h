// Arguments of calls in the arena, and what is kept of a session that could move to another replica.
// Guarded by the service's lock.
#pragma once

#include <forge/tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace forge::core {

/// Encoded arguments in the arena, shared by the entries that carry them.
struct Payload {
  std::uint64_t block = 0;
  std::uint64_t size = 0;
  std::uint32_t head = 0;
  std::uint32_t users = 0;
  std::uint64_t session = 0;      // of the call, as it is numbered; 0: none
  std::vector<Tensor> residents;  // arena tensors the arguments refer to
};

/// What one rank has saved of a session.
struct Snapshot {
  std::vector<std::byte> bytes;  ///< as the worker wrote them
  std::uint64_t head = 0;        ///< so many of them are the head
};

struct LoggedCall {
  Payload* payload;
  std::uint16_t endpoint;
};

/// What brings a session's state back on another replica: what the actor saved, and what it has
/// executed since.
struct SavedSession {
  std::vector<Snapshot> state;     // by rank; empty: it has never been saved
  std::vector<Snapshot> incoming;  // likewise, while it is being saved
  std::vector<LoggedCall> calls;   // since, oldest first
  std::size_t since = 0;           // calls since it was last asked for
  int attempts = 0;                // to bring it back, that ended with a worker
  bool saving = false;
  bool away = false;        // its replica is gone: the next call brings it back
  bool restoring = false;   // on its way
  bool incomplete = false;  // saving fails: it cannot be brought back
};

}  // namespace forge::core
