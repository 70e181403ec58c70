#include "core/text_segment.h"

#include <fcntl.h>

#include <cstring>

#include "shm/control_file.h"

namespace forge::core {

Result<shm::Segment> share_text(const std::string& name, std::string_view text) {
  const std::size_t size = shm::page_up(text.size());
  auto segment = shm::Segment::create(
      {.name = name, .size = size, .reserved = size, .writer = shm::Writer::creator});
  if (segment) std::memcpy(segment->data(), text.data(), text.size());
  return segment;
}

Result<std::string> shared_text(shm::FileDescriptor fd, std::uint64_t size) {
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return make_error({ErrorCode::invalid_argument,
                       "what came is no memory that can be read safely: its size may change"});
  }
  const auto segment = shm::Segment::attach(std::move(fd), shm::Access::read_only);
  if (!segment) return segment.error_ptr();
  if (size > segment->size()) {
    return make_error(
        {ErrorCode::invalid_argument, "what came has " + std::to_string(segment->size()) +
                                          " bytes instead of " + std::to_string(size)});
  }
  return std::string(reinterpret_cast<const char*>(segment->data()), size);
}

}  // namespace forge::core
