// Talks to a controller as the forge command does, one answer at a time.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "core/frames.h"
#include "core/local_socket.h"
#include "fixture.h"

namespace forge::e2e {

using core::Json;

class Client {
 public:
  explicit Client(const std::filesystem::path& path)
      : socket_(std::move(core::connect_to(path)).value()) {}

  void send_bytes(const std::string& bytes) {
    (void)::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  void send(Json request) {
    core::FrameWriter out;
    out.push(std::move(request));
    (void)out.flush(socket_.get());  // where it has been closed, next() says so
  }
  /// Nothing: the connection has been closed.
  std::optional<Json> next() {
    std::string bytes;
    for (;;) {
      if (auto frame = std::move(in_.next()).value()) return frame;
      pollfd event{socket_.get(), POLLIN, 0};
      const auto limit = std::chrono::milliseconds(kPatience);
      if (::poll(&event, 1, static_cast<int>(limit.count())) <= 0) {
        ADD_FAILURE() << "no answer";
        return std::nullopt;
      }
      shm::FileDescriptor fd;
      if (core::receive(socket_.get(), bytes, fd, 0) <= 0) return std::nullopt;
      if (fd) fd_ = std::move(fd);
      in_.append(bytes);
    }
  }
  Json ask(Json request) {
    send(std::move(request));
    return next().value_or(Json::object());
  }
  /// The last answer to a request that takes its time.
  Json finish(Json request) {
    Json answer = ask(std::move(request));
    while (answer.contains("done") && !answer["done"].get<bool>())
      answer = next().value_or(Json::object());
    return answer;
  }
  bool closed() { return !next().has_value(); }
  shm::FileDescriptor take_fd() { return std::move(fd_); }

 private:
  shm::FileDescriptor socket_;
  core::FrameReader in_{core::kLongestAnswer};
  shm::FileDescriptor fd_;
};

/// Sockets are made in a folder of the test's own.
struct Runtime {
  Runtime() { ::setenv("XDG_RUNTIME_DIR", folder.file("").c_str(), 1); }
  ~Runtime() { ::unsetenv("XDG_RUNTIME_DIR"); }
  /// Of this process's controller.
  std::filesystem::path socket() const {
    return folder.file("forge/" + std::to_string(::getpid()) + ".sock");
  }
  TemporaryFolder folder;
};

}  // namespace forge::e2e
