#include "core/frames.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace forge::core {
namespace {

constexpr std::size_t kLengthBytes = 4;
constexpr std::size_t kPiece = 16 * 1024;

std::shared_ptr<const Error> refuse(const std::string& what) {
  return make_error({ErrorCode::invalid_argument, what});
}

}  // namespace

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::optional<Json>> FrameReader::next() {
  if (bytes_.size() < kLengthBytes) return std::optional<Json>();
  std::uint32_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    length |= std::uint32_t{static_cast<unsigned char>(bytes_[i])} << (8 * i);
  if (length > longest_) {
    return refuse("a frame of " + std::to_string(length) + " bytes; the most is " +
                  std::to_string(longest_));
  }
  if (bytes_.size() - kLengthBytes < length) return std::optional<Json>();
  const auto begin = bytes_.begin() + kLengthBytes;
  Json frame = Json::parse(begin, begin + length, nullptr, false);
  bytes_.erase(0, kLengthBytes + length);
  if (!frame.is_object()) return refuse("a frame that is no JSON object");
  const auto protocol = frame.find("forge");
  if (protocol == frame.end() || !protocol->is_number_integer() || *protocol != kProtocol) {
    return refuse("a frame of another protocol than version " + std::to_string(kProtocol) +
                  "; use the forge command of the controller's installation");
  }
  return std::optional<Json>(std::move(frame));
}

void FrameWriter::push(Json frame, int fd) {
  frame["forge"] = kProtocol;
  const std::string text = dump(frame);
  Frame made;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    made.bytes.push_back(static_cast<char>(text.size() >> (8 * i)));
  made.bytes += text;
  if (fd >= 0) made.fd = shm::FileDescriptor(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  waiting_ += made.bytes.size();
  frames_.push_back(std::move(made));
}

FrameWriter::Sent FrameWriter::flush(int socket) {
  while (!frames_.empty()) {
    Frame& frame = frames_.front();
    iovec piece{frame.bytes.data() + frame.sent, frame.bytes.size() - frame.sent};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (frame.fd) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      const int fd = frame.fd.get();
      std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    }
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN ? Sent::some : Sent::failed;
    frame.fd = shm::FileDescriptor();
    frame.sent += static_cast<std::size_t>(sent);
    waiting_ -= static_cast<std::size_t>(sent);
    if (frame.sent == frame.bytes.size()) frames_.pop_front();
  }
  return Sent::all;
}

std::ptrdiff_t receive(int socket, std::string& bytes, shm::FileDescriptor& fd, int flags) {
  bytes.resize(kPiece);
  iovec piece{bytes.data(), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_LEN(sizeof(int));  // one, not as many as the padding has room for
  const ssize_t count = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  const int error = errno;
  for (cmsghdr* header = count < 0 ? nullptr : CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int received = -1;
    std::memcpy(&received, CMSG_DATA(header), sizeof(received));
    fd = shm::FileDescriptor(received);
  }
  bytes.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
  errno = error;
  return count;
}

}  // namespace forge::core
