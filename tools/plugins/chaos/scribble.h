// Writes garbage where only forge's own part of a worker writes.
#pragma once

#include <cstdint>

namespace chaos {

/// Over the ring of answers in this worker's response file. False if there is none.
bool scribble(std::uint64_t seed);

}  // namespace chaos
