// What is asked and answered.
#pragma once

#include <forge/fields.h>
#include <forge/payload.h>

#include <cstdint>

namespace chaos {

struct Question {
  std::uint64_t number = 0;
  std::uint64_t slot = 0;     ///< its Executions
  std::uint64_t session = 0;  ///< kNoSession, or which
  forge::Bytes payload;       ///< bytes_of(number)
  FORGE_FIELDS(number, slot, session, payload);
};

struct Answer {
  std::uint64_t number = 0;
  std::int32_t replica = 0;
  forge::Bytes payload;  ///< bytes_of(answer_to(number))
  FORGE_FIELDS(number, replica, payload);
};

/// A tensor of u64 begins with the number and the slot; words of the number follow.
inline constexpr std::size_t kTensorHead = 2;

/// Of the batched endpoints.
inline constexpr int kBatchSize = 8;

}  // namespace chaos
