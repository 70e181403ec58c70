// Writes garbage where only forge's own part of a worker writes.
#pragma once

#include <cstdint>

namespace chaos {

/// Garbage over the ring of answers in this worker's response file: a position that is none, or an
/// answer of a kind that is none. False if the file is not found.
bool scribble(std::uint64_t seed);

/// A well-formed answer, published in the ring, to a request that nobody has made.
bool forge_answer(std::uint64_t seed);

}  // namespace chaos
