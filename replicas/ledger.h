// The ledger: the controller's own account of every request. What a worker says counts only if it
// agrees with this.
//
// An entry is `queued` (no worker has it), or `sent` (its descriptor was pushed to one replica
// incarnation); it is closed when that attempt has answered, or its workers have been reaped. The
// call a user waits for may complete earlier (deadline, cancel); the entry stays until no worker
// can touch its payload.
//
//   open ─> queued ──sent──> sent ──all ranks answered──> closed
//             ^                │
//             ├──never started─┤  does not count as an execution
//             └──started───────┴─ if idempotent and executions are left; else closed, WorkerLost
//
// A request whose execution kills workers is told from those that only shared their end by a death
// alone: after its first death it runs by itself, and after the second it is poison.
//
// Pure: no clock, no lock, no I/O. Guarded by its service's lock.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "shm/control_file.h"

namespace forge::replicas {

inline constexpr std::uint32_t kAnyReplica = ~std::uint32_t{0};
inline constexpr std::uint32_t kAllRanks = ~std::uint32_t{0};
/// Executions an idempotent request may have.
inline constexpr std::uint16_t kMaxExecutions = 3;

enum class EntryState : std::uint8_t { closed, queued, sent };

/// Somebody's call, or one of the engine's own that keep the state of a session: they save it, bring
/// it back on another replica, or run a call again that the saved state does not know.
enum class Purpose : std::uint8_t { call, save, restore, replay };

struct Entry;
using EntryList = boost::intrusive::list<Entry, boost::intrusive::constant_time_size<true>>;

struct Entry : boost::intrusive::list_base_hook<> {
  EntryState state = EntryState::closed;
  Purpose purpose = Purpose::call;
  bool idempotent = false;
  std::uint16_t executions = 0;         ///< attempts that had started
  std::uint32_t home = kAnyReplica;     ///< a share belongs to this replica; others may go anywhere
  std::uint32_t rank = kAllRanks;       ///< one rank of it (choose), or all
  std::uint32_t replica = kAnyReplica;  ///< where it was sent, or queues
  std::uint32_t waiting = 0;            ///< ranks that have not answered
  std::uint32_t part = 0;               ///< index of its first answer in the call
  std::uint64_t incarnation = 0;        ///< of that replica
  std::uint64_t batch = 0;              ///< neighbours with this number are sent as one; 0: none
  std::uint64_t cancel = 0;             ///< the source that may cancel it; 0: none
  std::uint8_t deaths = 0;              ///< of workers that it may have killed
  bool died_alone = false;              ///< in one of them, nothing else had started
  bool alone = false;                   ///< its batch failed: it goes on by itself
  bool marked = false;                  ///< its worker has been told that nobody waits
  bool leads = false;                   ///< other calls of its session wait for its end
  bool spreads = false;                 ///< a fanout that has no shares yet
  bool in_order = false;                ///< a share that is one of its session's calls
  bool failed = false;                  ///< a rank has answered with an error
  std::int64_t running_ns = -1;         ///< how long it has been seen to run; -1: not yet
  std::int64_t called_ns = 0;           ///< when its caller made it; 0: its times are not taken
  std::int64_t left_ns = 0;             ///< when its batch left; 0: it was in none
  std::int64_t sent_ns = 0;             ///< when a worker's ring took it
  shm::RequestSlot slot{};              ///< the descriptor, pushed as it is; holds id and attempt
  std::vector<std::uint64_t> positions;  ///< ring position per rank it was sent to
  std::vector<bool> answered;            ///< per rank
  std::string key;                       ///< what its caller wants it routed by
  void* call = nullptr;       ///< the engine's; nullptr when nobody waits for the outcome any more
  void* payload = nullptr;    ///< the engine's
  EntryList* list = nullptr;  ///< the one it is in
};

/// Every live entry is in exactly one list.
void append(EntryList& list, Entry& entry);
void prepend(EntryList& list, Entry& entry);
void unlink(Entry& entry);

/// Who may have killed a worker: nothing it ran (a SIGKILL from outside), one of several requests that
/// had started, or this one.
enum class Blame : std::uint8_t { nobody, several, alone };

/// What becomes of an entry whose replica died.
enum class Verdict { replay, retry, lost, poison };

class Ledger {
 public:
  /// A fresh entry in state queued, with a request id that no open one has.
  Entry& open(std::uint16_t client);

  /// The live entry with this id; nullptr if there is none (any more). Ids come from workers:
  /// nothing is believed.
  Entry* find(shm::RequestId id);

  /// It is about to be pushed: a new attempt at this replica incarnation, to be answered by `ranks`
  /// ranks.
  void sent(Entry& entry, std::uint32_t replica, std::uint64_t incarnation, std::uint32_t ranks);

  /// May rank `rank` of this incarnation answer this attempt now? Marks it answered if so.
  bool accept(Entry& entry, std::uint32_t replica, std::uint64_t incarnation, std::uint32_t rank,
              std::uint16_t attempt);

  /// Its replica has been reaped. `started`: any rank had started it.
  Verdict lost(Entry& entry, bool started, Blame blame = Blame::nobody);

  /// Likewise where nothing is ever run again (meshes): always lost.
  Verdict lost_for_good(Entry& entry, bool started);

  /// Nothing refers to it any more. Its id comes back after 2^32 uses.
  void close(Entry& entry);

  std::size_t open_entries() const { return open_; }

 private:
  static constexpr std::size_t kChunk = 256;
  std::vector<std::unique_ptr<Entry[]>> chunks_;  // entries never move
  std::vector<std::uint32_t> free_;
  std::size_t open_ = 0;
};

}  // namespace forge::replicas
