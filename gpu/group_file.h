// The layout of what the ranks of one replica share: one file per rank and incarnation.
//
// Each file is written by its rank alone and mapped read-only by the others. All offsets are
// asserted below; kGroupVersion changes with any of them.
#pragma once

#include <forge/group.h>
#include <forge/tensor.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "shm/control_file.h"

namespace forge::gpu {

inline constexpr std::uint64_t kGroupMagic = 0x47'45'47'52'4F'46ULL;  // "FORGEG"
inline constexpr std::uint32_t kGroupVersion = 3;

using forge::Reduction;

/// The numbers are part of the layout, as those of Reduction are.
enum class Operation : std::uint8_t {
  barrier = 1,
  broadcast = 2,
  all_reduce = 3,
  all_gather = 4,
  refused = 5,  ///< its arguments were wrong, so it takes no part; the others must not wait for it
};

/// Whose memory the payload lies in. Only payloads in host memory go through the file.
enum class Place : std::uint8_t { host = 0, device = 1 };

/// What a rank believes the ranks are doing together in one step.
struct GroupCall {
  Operation operation{};
  Reduction reduction{};  ///< all_reduce; 0 elsewhere
  DType dtype{};
  Place place{};
  std::int32_t root = 0;     ///< broadcast; 0 elsewhere
  std::uint64_t bytes = 0;   ///< of the whole payload of one rank
  std::uint64_t offset = 0;  ///< of this step's chunk in it
  friend bool operator==(const GroupCall&, const GroupCall&) = default;
};

std::string_view name_of(Reduction reduction);
/// "all_reduce(sum, 12 bytes of f32)"; calls that differ get texts that differ.
std::string describe(const GroupCall& call);

struct GroupHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t rank;
  std::uint32_t procs;
  std::uint32_t reserved;
  std::uint64_t file_size;
  std::uint64_t incarnation;
};

/// Steps whose calls and chunks a file holds at a time. Two are enough: a rank fills the place of
/// step s - 2 only after all have published step s - 1, and who did so has read step s - 2.
inline constexpr std::size_t kGroupSlots = 2;

/// GroupFile::ended: the rank had failed because of another one.
inline constexpr std::uint32_t kEndedLetDown = 0x100;

/// Two chunks follow, from kGroupDataOffset to the end of the file.
struct GroupFile {
  GroupHeader header;
  /// Where the rank stands; together on one line, because they are read together. It is in `call`
  /// (0: not there yet). The last call in which it took steps is `step_call`, which may be an
  /// earlier one: it published `step` there. The last in which it failed is `failed_call` (0: none),
  /// with the ErrorCode `failed`. The last that it has ended, whether it has used the group there or
  /// not, is `ended_call` (0: none), with `ended`, an ErrorCode and kEndedLetDown: in that and in
  /// earlier ones it takes no further step.
  alignas(128) std::atomic<std::uint64_t> call;
  std::atomic<std::uint64_t> step_call;
  std::atomic<std::uint64_t> step;
  std::atomic<std::uint64_t> failed_call;
  std::atomic<std::uint32_t> failed;
  std::atomic<std::uint64_t> ended_call;
  std::atomic<std::uint32_t> ended;
  std::atomic<std::uint32_t> aborted;                 ///< 1: the group is over, for all
  alignas(128) std::atomic<std::uint32_t> sleeps_on;  ///< r + 1: on the bell of rank r; 0: awake
  shm::Bell bell;                                     ///< rung when one of the others sleeps on it
  alignas(128) GroupCall calls[kGroupSlots];
};

inline constexpr std::size_t kGroupDataOffset = shm::page_up(sizeof(GroupFile));

static_assert(sizeof(GroupCall) == 24 && offsetof(GroupCall, bytes) == 8);
static_assert(sizeof(GroupHeader) == 40 && offsetof(GroupFile, call) == 128);
static_assert(offsetof(GroupFile, sleeps_on) == 256 && offsetof(GroupFile, bell) == 384);
static_assert(offsetof(GroupFile, calls) == 512 && alignof(GroupFile) == 128);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace forge::gpu
