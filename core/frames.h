// What goes over a control socket: JSON objects, each behind its length (four bytes, low ones first).
// A frame may bring a descriptor along, with its first byte.
#pragma once

#include <forge/result.h>

#include <cstddef>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "shm/file_descriptor.h"

namespace forge::core {

using Json = nlohmann::ordered_json;

/// In each frame, as "forge". Others are refused.
inline constexpr int kProtocol = 1;
/// Bytes of JSON that a controller accepts, and that those who ask it accept.
inline constexpr std::size_t kLongestRequest = 16 * 1024;
inline constexpr std::size_t kLongestAnswer = std::size_t{4} << 20;

/// Text of any bytes as valid JSON.
std::string dump(const Json& json);

/// Takes a stream of bytes apart. Trusts nothing.
class FrameReader {
 public:
  explicit FrameReader(std::size_t longest) : longest_(longest) {}
  void append(std::string_view bytes) { bytes_.append(bytes); }
  /// The next frame; nothing while it is not there as a whole. Error: InvalidArgument, and nothing that
  /// follows has a meaning: too long, not JSON, not an object, or another protocol's.
  Result<std::optional<Json>> next();

 private:
  std::size_t longest_;
  std::string bytes_;
};

/// Frames on their way out of a socket that does not block.
class FrameWriter {
 public:
  enum class Sent { all, some, failed };

  /// `fd` stays open until it has been sent: it is copied.
  void push(Json frame, int fd = -1);
  /// As much as the socket takes now.
  Sent flush(int socket);
  std::size_t waiting() const { return waiting_; }  ///< bytes

 private:
  struct Frame {
    std::string bytes;
    std::size_t sent = 0;
    shm::FileDescriptor fd;
  };
  std::deque<Frame> frames_;
  std::size_t waiting_ = 0;
};

/// Bytes from the socket, and the descriptor that came with them, if one did. Returns as recv(2) does.
/// `flags`: as recv(2) takes them.
std::ptrdiff_t receive(int socket, std::string& bytes, shm::FileDescriptor& fd, int flags);

}  // namespace forge::core
