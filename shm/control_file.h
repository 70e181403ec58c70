// The layout of what controller and worker share: two control files per worker incarnation, and the
// head of the service arena.
//
// Each struct is written by one process alone and mapped read-only by the other. All offsets are
// asserted below; kLayoutVersion changes with any of them, and invalid() says why a file is not one
// of ours.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "shm/flight.h"
#include "shm/ring.h"

namespace forge::shm {

inline constexpr std::uint64_t kMagic = 0x31'45'47'52'4F'46ULL;  // "FORGE1"
inline constexpr std::uint32_t kLayoutVersion = 6;

/// Calls that are in a worker's ring or running there at most; the rest wait in the controller.
inline constexpr std::uint64_t kWindow = 256;
/// Answer blocks on their way back to the worker; more wait in the controller.
inline constexpr std::uint64_t kReleases = 1024;
/// Answers up to this many encoded bytes ride in the response slot itself.
inline constexpr std::size_t kInlineAnswer = 96;

/// One call is one request id; attempts share it.
struct RequestId {
  std::uint32_t entry;       ///< index in the client's ledger
  std::uint32_t generation;  ///< how often that entry has been used; never 0 for a live request
  friend bool operator==(const RequestId&, const RequestId&) = default;
};

constexpr std::uint64_t packed(RequestId id) {
  return std::uint64_t{id.generation} << 32 | id.entry;
}
constexpr RequestId unpacked(std::uint64_t id) {
  return {static_cast<std::uint32_t>(id), static_cast<std::uint32_t>(id >> 32)};
}

enum class RequestKind : std::uint8_t { call = 1, setup = 2, stop = 3 };

/// Controller → worker. One cache line; payload lies in the arena.
struct alignas(64) RequestSlot {
  RequestId id;
  std::uint64_t block;       ///< offset of the payload block in the arena
  std::uint64_t block_size;  ///< bytes of the whole block
  std::uint32_t head_size;   ///< bytes of its encoded head, at the block's start
  std::uint16_t client;      ///< 0 is the controller itself
  std::uint16_t endpoint;    ///< index in the actor's manifest
  std::int64_t deadline_ns;  ///< CLOCK_MONOTONIC; not started after it. 0: none
  std::uint64_t session;     ///< 0: none
  std::uint32_t batch;  ///< 1: a call of its own. n: this and the next n - 1 are one batch; those
                        ///< have 0
  std::uint16_t attempt;
  RequestKind kind;
  std::uint8_t flags;      ///< kTimed, kRestartOnError
  std::uint64_t lockstep;  ///< numbers a replica's calls to all ranks, from 1; 0: to one alone
};

/// RequestSlot::flags: the controller wants to know when it ran (Stamp).
inline constexpr std::uint8_t kTimed = 1;

/// RequestSlot::flags: a worker whose endpoint throws answers and ends.
inline constexpr std::uint8_t kRestartOnError = 2;

enum class ResponseKind : std::uint8_t {
  value = 1,    ///< the encoded result
  error = 2,    ///< encoded: error code, type, text
  expired = 3,  ///< not executed: its deadline had passed
  starved = 4,  ///< no answer: an answer of `block_size` bytes finds no room, and waits for some
};

/// ResponseSlot::flags: answer memory runs short; copy the block out and give it back at once.
inline constexpr std::uint8_t kCopyOut = 1;
/// ResponseSlot::flags: the error is that of the whole batch, not of this element.
inline constexpr std::uint8_t kBatchFailed = 2;

/// ResponseSlot::flags: the end of `answer`, which the answer leaves free, holds a Stamp.
inline constexpr std::uint8_t kStamped = 4;

/// ResponseSlot::flags: the rank has failed because another rank had left the call or failed in it.
inline constexpr std::uint8_t kLetDown = 8;

/// When a request ran; CLOCK_MONOTONIC.
struct Stamp {
  std::int64_t started_ns;
  std::int64_t ended_ns;
};

/// Worker → controller. Two cache lines; small answers ride along.
struct alignas(128) ResponseSlot {
  RequestId id;
  std::uint64_t block;  ///< offset of the answer block in the response file; 0: answer is inline
  std::uint64_t block_size;  ///< bytes of that block
  std::uint32_t head_size;   ///< bytes of the encoded head, here or at the block's start
  std::uint16_t attempt;
  ResponseKind kind;
  std::uint8_t flags;  ///< kCopyOut, kBatchFailed, kStamped, kLetDown
  std::byte answer[kInlineAnswer];
};

inline void write_stamp(ResponseSlot& slot, const Stamp& stamp) {
  if (slot.block == 0 && slot.head_size > kInlineAnswer - sizeof(stamp)) return;  // no room
  std::memcpy(slot.answer + kInlineAnswer - sizeof(stamp), &stamp, sizeof(stamp));
  slot.flags |= kStamped;
}
/// Precondition: kStamped is set.
inline Stamp read_stamp(const ResponseSlot& slot) {
  Stamp stamp{};
  std::memcpy(&stamp, slot.answer + kInlineAnswer - sizeof(stamp), sizeof(stamp));
  return stamp;
}

struct FileHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t window;
  std::uint64_t file_size;
  std::uint64_t incarnation;  ///< that the file was made for
};

/// A futex word that wakes a sleeper. Counts rings; alone on its line.
struct alignas(128) Bell {
  std::atomic<std::uint32_t> word;
};

/// Which worker a file pair is for.
struct WorkerIdentity {
  std::uint32_t rank;
  std::uint32_t procs;
  std::uint32_t wait;   ///< forge::Wait
  std::int32_t cpu;     ///< core to pin it to; -1: none
  std::uint32_t calls;  ///< that may run at once; at least 1
};

/// Whose life the worker lives. Changes once at most, while it has no call: when a spare takes over.
struct Assignment {
  std::atomic<std::uint64_t> incarnation;
  std::atomic<std::uint32_t> replica;
};

/// Written by the controller alone.
struct RequestFile {
  FileHeader header;
  WorkerIdentity identity;
  Assignment assignment;
  /// Counts a worker's `starved` up to the last one at which nothing could be freed: the program holds
  /// on to all answers that have not come back.
  std::atomic<std::uint64_t> answers_held;
  RingIndex requests_tail;
  RingIndex responses_head;
  RingIndex releases_tail;
  Bell worker_bell;
  RequestSlot requests[kWindow];
  std::uint64_t releases[kReleases];
};

/// Why a worker ended, in its own words; read after its death.
enum class ExitReason : std::uint32_t {
  none = 0,
  stopped,
  setup_failed,
  bad_layout,
  restart,
  device_lost,  ///< its device cannot be used in this process any more, or never could
};

/// Bytes of the worker's device memory, for those who look in: each by itself, at some time.
struct DeviceMemory {
  std::atomic<std::uint64_t> used;    ///< in buffers
  std::atomic<std::uint64_t> pooled;  ///< kept for the next ones
  std::atomic<std::uint64_t> total;   ///< what the device has; 0: nothing has been said yet
};

/// Written by the worker alone. Answer memory follows, from kAnswersOffset to the end of the file.
struct ResponseFile {
  FileHeader header;
  RingIndex requests_head;
  RingIndex started;  ///< requests below this position were started; stored before their first
                      ///< payload byte is read
  RingIndex responses_tail;
  RingIndex releases_head;
  alignas(128) std::atomic<std::uint32_t> parked;     ///< 1 while the worker sleeps or is about to
  Bell caller_bell;                                   ///< rung when a caller is parked
  Bell engine_bell;                                   ///< rung when the engine is parked
  alignas(128) std::atomic<std::uint64_t> heartbeat;  ///< changes with everything that is begun
  std::atomic<ExitReason> exit_reason;
  ResponseSlot responses[kWindow];
  FlightLog flight;
  CrashNote crash;
  DeviceMemory device_memory;
};

/// Whom a worker has to ring after it published. The upper bits of the word count parkings, so that
/// a worker rings once for each.
enum class Poller : std::uint32_t { awake = 0, caller = 1, engine = 2, engine_eventfd = 3 };
inline constexpr std::uint32_t kPollerBits = 2;

/// Ledger entries beyond these cannot be marked: their endpoints do not see that they were cancelled.
inline constexpr std::size_t kMarkedEntries = 65'536;

/// Head of a service arena; blocks follow. Written by the controller alone.
struct ArenaHeader {
  FileHeader header;
  alignas(128) std::atomic<std::uint32_t> poller;  ///< count of parkings << kPollerBits | Poller
  /// One bit per ledger entry: nobody waits for its request any more. Cleared before the entry is
  /// used again.
  alignas(128) std::atomic<std::uint64_t> cancelled[kMarkedEntries / 64];
};

/// By the one thread that holds the service's lock. Relaxed: nothing else hangs on it.
inline void mark_cancelled(ArenaHeader& arena, RequestId id, bool cancelled) {
  if (id.entry >= kMarkedEntries) return;
  auto& word = arena.cancelled[id.entry / 64];
  const std::uint64_t bit = std::uint64_t{1} << id.entry % 64;
  const std::uint64_t old = word.load(std::memory_order_relaxed);
  word.store(cancelled ? old | bit : old & ~bit, std::memory_order_relaxed);
}
inline bool is_cancelled(const ArenaHeader& arena, RequestId id) {
  return id.entry < kMarkedEntries &&
         (arena.cancelled[id.entry / 64].load(std::memory_order_relaxed) >> id.entry % 64 & 1) != 0;
}

inline constexpr std::size_t kPage = 4096;
constexpr std::size_t page_up(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
inline constexpr std::size_t kRequestFileSize = page_up(sizeof(RequestFile));
inline constexpr std::size_t kAnswersOffset = page_up(sizeof(ResponseFile));
inline constexpr std::size_t kArenaBlocksOffset = page_up(sizeof(ArenaHeader));

static_assert(sizeof(RequestSlot) == 64 && alignof(RequestSlot) == 64);
static_assert(offsetof(RequestSlot, block) == 8 && offsetof(RequestSlot, head_size) == 24);
static_assert(offsetof(RequestSlot, deadline_ns) == 32 && offsetof(RequestSlot, kind) == 54);
static_assert(offsetof(RequestSlot, lockstep) == 56);
static_assert(sizeof(ResponseSlot) == 128 && offsetof(ResponseSlot, answer) == 32);
static_assert(sizeof(FileHeader) == 32 && sizeof(WorkerIdentity) == 20);
static_assert(offsetof(RequestFile, assignment) == 56 && offsetof(RequestFile, answers_held) == 72);
static_assert(offsetof(RequestFile, requests_tail) == 128 &&
              offsetof(RequestFile, requests) == 640);
static_assert(offsetof(RequestFile, releases) == 640 + kWindow * 64);
static_assert(offsetof(ResponseFile, started) == 256 && offsetof(ResponseFile, parked) == 640);
static_assert(offsetof(ResponseFile, heartbeat) == 1024 &&
              offsetof(ResponseFile, responses) == 1152);
static_assert(offsetof(ResponseFile, flight) == 1152 + kWindow * 128 &&
              offsetof(ResponseFile, crash) == offsetof(ResponseFile, flight) + 1032 &&
              offsetof(ResponseFile, device_memory) ==
                  offsetof(ResponseFile, crash) + sizeof(CrashNote));
static_assert(offsetof(ArenaHeader, poller) == 128 && offsetof(ArenaHeader, cancelled) == 256);
static_assert((kWindow & (kWindow - 1)) == 0 && (kReleases & (kReleases - 1)) == 0);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(kRequestFileSize + kAnswersOffset < 128 * 1024, "a restart makes these anew");

inline FileHeader make_header(std::uint64_t file_size, std::uint64_t incarnation) {
  return {kMagic, kLayoutVersion, static_cast<std::uint32_t>(kWindow), file_size, incarnation};
}

/// Empty if the header is what this build writes; otherwise what is wrong with it.
inline std::string invalid(const FileHeader& header, std::uint64_t mapped_size) {
  if (header.magic != kMagic) return "not a forge file (magic differs)";
  if (header.version != kLayoutVersion) {
    return "layout version " + std::to_string(header.version) + ", this build has " +
           std::to_string(kLayoutVersion) + "; use library and forge-worker of one build";
  }
  if (header.window != kWindow) return "window " + std::to_string(header.window) + " differs";
  if (header.file_size != mapped_size) return "file size differs from what its header says";
  return {};
}

}  // namespace forge::shm
