// A text that is too long for a frame, handed over as sealed memory.
#pragma once

#include <forge/result.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "shm/segment.h"

namespace forge::core {

/// Error: Unavailable.
Result<shm::Segment> share_text(const std::string& name, std::string_view text);

/// The first `size` bytes of what somebody handed over, who is not trusted. Errors: InvalidArgument if it
/// is not as long, or could shrink while it is read; Unavailable.
Result<std::string> shared_text(shm::FileDescriptor fd, std::uint64_t size);

}  // namespace forge::core
