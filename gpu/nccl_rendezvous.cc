#include "gpu/nccl_rendezvous.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "gpu/nccl_library.h"

namespace forge::gpu {
namespace {

std::string_view uuid_of(const RankCard& card) {
  return {card.uuid.data(), ::strnlen(card.uuid.data(), card.uuid.size())};
}

std::string rank_text(std::size_t rank) { return "rank " + std::to_string(rank); }

}  // namespace

RankCard make_card(const Status& loaded, int version, std::string_view uuid) {
  RankCard card{.failed = static_cast<std::uint32_t>(loaded.code), .version = version};
  std::ranges::copy(uuid.substr(0, card.uuid.size()), card.uuid.begin());
  return card;
}

bool hold_the_same(std::span<const std::uint64_t> generations) {
  return generations[0] != 0 &&
         std::ranges::all_of(generations, [&](auto one) { return one == generations[0]; });
}

Status judge(std::span<const RankCard> ranks, const Status& own) {
  if (!own.ok()) return own;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const RankCard& card = ranks[rank];
    if (card.failed != 0) {
      return {ErrorCode::unavailable,
              "group: " + rank_text(rank) + " cannot load NCCL; its own answer says what to do"};
    }
    if (card.version != ranks[0].version) {
      return {ErrorCode::invalid_argument,
              "group: rank 0 has NCCL " + nccl_version_text(ranks[0].version) + ", " +
                  rank_text(rank) + " has " + nccl_version_text(card.version) +
                  "; give all ranks the same library, see FORGE_NCCL_LIBRARY"};
    }
    for (std::size_t other = 0; other < rank; ++other) {
      if (uuid_of(ranks[other]) != uuid_of(card)) continue;
      return {ErrorCode::invalid_argument,
              "group: " + rank_text(other) + " and " + rank_text(rank) + " share the device " +
                  std::string(uuid_of(card)) +
                  ", which NCCL does not allow; give each rank a device of its own (no gpu_share), "
                  "or copy with context().to_host() and use the group on host memory"};
    }
  }
  return {};
}

Status judge(const Invitation& invitation, std::uint64_t incarnation) {
  if (invitation.failed != 0) {
    return {ErrorCode::unavailable,
            "group: rank 0 could not make an id for NCCL; its own answer says why"};
  }
  if (invitation.incarnation != incarnation || invitation.generation == 0) {
    return {ErrorCode::invalid_argument, "group: rank 0 invites to NCCL in incarnation " +
                                             std::to_string(invitation.incarnation) +
                                             ", this rank is of " + std::to_string(incarnation) +
                                             "; the replica must be restarted as a whole"};
  }
  return {};
}

NcclVerdict judge(const NcclSight& sight) {
  if (sight.state != nccl::Code::success && sight.state != nccl::Code::in_progress) {
    return NcclVerdict::broken;
  }
  if (sight.finished && sight.state == nccl::Code::success) return NcclVerdict::done;
  if (!sight.peers_ok) return NcclVerdict::lost;
  return sight.late ? NcclVerdict::late : NcclVerdict::wait;
}

std::optional<nccl::Type> nccl_type(DType dtype) {
  switch (dtype) {
    case DType::i8:
      return nccl::Type::i8;
    case DType::u8:
      return nccl::Type::u8;
    case DType::i32:
      return nccl::Type::i32;
    case DType::u32:
      return nccl::Type::u32;
    case DType::i64:
      return nccl::Type::i64;
    case DType::u64:
      return nccl::Type::u64;
    case DType::f16:
      return nccl::Type::f16;
    case DType::bf16:
      return nccl::Type::bf16;
    case DType::f32:
      return nccl::Type::f32;
    case DType::f64:
      return nccl::Type::f64;
    case DType::boolean:
    case DType::i16:
    case DType::u16:
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<nccl::Op> nccl_op(Reduction reduction) {
  switch (reduction) {
    case Reduction::sum:
      return nccl::Op::sum;
    case Reduction::product:
      return nccl::Op::product;
    case Reduction::min:
      return nccl::Op::min;
    case Reduction::max:
      return nccl::Op::max;
  }
  return std::nullopt;
}

}  // namespace forge::gpu
