// What the ranks of a replica decide together about their NCCL communicator, without a clock, a
// lock or a call: all ranks see the same and decide the same.
#pragma once

#include <forge/error.h>
#include <forge/tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gpu/group_file.h"
#include "gpu/nccl_abi.h"

namespace forge::gpu {

/// What each rank says of itself before NCCL is called. Comes from other processes: input.
struct RankCard {
  std::uint32_t failed = 0;  ///< the ErrorCode with which its NCCL could not be loaded; 0: it was
  std::int32_t version = 0;  ///< of its NCCL
  std::array<char, 56> uuid{};  ///< of its device; not terminated if it is that long
};
static_assert(sizeof(RankCard) == 64);

RankCard make_card(const Status& loaded, int version, std::string_view uuid);

/// Rank 0's to all.
struct Invitation {
  std::uint64_t incarnation = 0;  ///< of the replica
  std::uint64_t generation = 0;   ///< of the communicator in that incarnation; from 1
  std::uint32_t failed = 0;       ///< the ErrorCode with which no id could be made; then no id
  std::uint32_t reserved = 0;
  nccl::UniqueId id{};
};
static_assert(sizeof(Invitation) == 152);

/// Do all ranks hold the same communicator? 0 stands for none. If not, all make a new one.
bool hold_the_same(std::span<const std::uint64_t> generations);

/// May these ranks make a communicator? `own` is how loading NCCL ended in this rank. Errors: that
/// of a rank without NCCL; InvalidArgument if two ranks have one device, or two versions of NCCL.
Status judge(std::span<const RankCard> ranks, const Status& own);

/// May this rank follow the invitation?
Status judge(const Invitation& invitation, std::uint64_t incarnation);

/// What can be seen of a step that NCCL is carrying out.
struct NcclSight {
  nccl::Code state = nccl::Code::success;  ///< of the communicator
  bool finished = false;                   ///< what is waited for has come about
  bool late = false;                       ///< the deadline has passed
  bool peers_ok = true;                    ///< false: Group::trouble() has something to say
};

enum class NcclVerdict { wait, done, broken, lost, late };

/// An error of our own communicator comes first. What has finished counts, however the others fare;
/// and that a rank is lost says more than that it is late.
NcclVerdict judge(const NcclSight& sight);

/// The element type with which all_reduce is called; nothing if NCCL has none.
std::optional<nccl::Type> nccl_type(DType dtype);
/// Nothing for a number that is no reduction.
std::optional<nccl::Op> nccl_op(Reduction reduction);

}  // namespace forge::gpu
