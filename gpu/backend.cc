#include "gpu/backend.h"

#include <string>

namespace forge::gpu {
namespace {

/// ok if bytes [offset, offset + size) lie in the buffer.
Status check_range(const Buffer& buffer, std::size_t offset, std::size_t size) {
  if (offset <= buffer.size() && size <= buffer.size() - offset) return {};
  return {ErrorCode::invalid_argument,
          "device copy of " + std::to_string(size) + " bytes at " + std::to_string(offset) +
              " does not lie in a buffer of " + std::to_string(buffer.size()) + " bytes"};
}

}  // namespace

Buffer::~Buffer() = default;
Event::~Event() = default;
PinnedRegion::~PinnedRegion() = default;
Stream::~Stream() = default;
Backend::~Backend() = default;

Status Stream::copy_in(Buffer& to, std::size_t offset, HostPiece from) {
  if (Status status = check_range(to, offset, from.size()); !status.ok()) return status;
  return from.empty() ? Status() : do_copy_in(to.device_data() + offset, from);
}

Status Stream::copy_out(std::span<std::byte> to, const Buffer& from, std::size_t offset) {
  if (Status status = check_range(from, offset, to.size()); !status.ok()) return status;
  return to.empty() ? Status() : do_copy_out(to, from.device_data() + offset);
}

Status Stream::gather(Buffer& to, std::size_t offset, std::span<const HostPiece> pieces) {
  if (Status status = check_range(to, offset, 0); !status.ok()) return status;
  // Looked at one by one: the sum of sizes could overflow.
  std::size_t end = offset;
  for (const HostPiece piece : pieces) {
    if (Status status = check_range(to, end, piece.size()); !status.ok()) return status;
    end += piece.size();
  }
  return end == offset ? Status() : do_gather(to.device_data() + offset, pieces);
}

Status Stream::do_gather(std::byte* to, std::span<const HostPiece> pieces) {
  for (const HostPiece piece : pieces) {
    if (piece.empty()) continue;
    if (Status status = do_copy_in(to, piece); !status.ok()) return status;
    to += piece.size();
  }
  return {};
}

}  // namespace forge::gpu
