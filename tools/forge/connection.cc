#include "tools/forge/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

namespace forge::tool {
namespace {

/// A controller answers at once, but the machine may be busy.
constexpr std::chrono::seconds kPatience{10};

std::string text_of(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool is_true(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_boolean() && found->get<bool>();
}

}  // namespace

Connection::Connection(const core::FoundSocket& found)
    : name_("controller " + found.path.stem().string()),
      socket_(std::move(core::connect_to(found.path)).value()) {}

void Connection::ended() const { throw Unavailable(name_ + " has ended"); }

void Connection::send(Json request) {
  request["id"] = ++last_id_;
  core::FrameWriter out;
  out.push(std::move(request));
  for (;;) {
    const auto sent = out.flush(socket_.get());
    if (sent == core::FrameWriter::Sent::all) return;
    if (sent == core::FrameWriter::Sent::failed) ended();
    pollfd room{socket_.get(), POLLOUT, 0};
    if (::poll(&room, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) == 0)
      throw Unavailable(name_ + " does not answer; it may be stopped (SIGSTOP, a debugger)");
  }
}

std::optional<Json> Connection::receive(std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  std::string bytes;
  for (;;) {
    auto frame = in_.next();
    if (!frame) {
      throw InvalidArgument(name_ + " sent " + frame.error().what());
    }
    if (*frame) {
      if (is_true(**frame, "bye")) ended();
      return std::move(**frame);
    }
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd event{socket_.get(), POLLIN, 0};
    const int ready = ::poll(&event, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (ready == 0 || (ready < 0 && errno == EINTR)) return std::nullopt;
    shm::FileDescriptor fd;
    const std::ptrdiff_t count = core::receive(socket_.get(), bytes, fd, MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) ended();
    if (fd) fd_ = std::move(fd);
    in_.append(bytes);
  }
}

Json Connection::answer() {
  auto answer = receive(kPatience);
  if (!answer)
    throw Unavailable(name_ + " does not answer; it may be stopped (SIGSTOP, a debugger)");
  require_ok(*answer);
  return std::move(*answer);
}

void require_ok(const Json& answer) {
  if (is_true(answer, "ok")) return;
  const std::string message = text_of(answer, "message");
  throw InvalidArgument(message.empty() ? "the controller refused and did not say why" : message);
}

core::FoundSocket find_controller(const std::string& wanted) {
  const auto found = core::find_sockets();
  if (found.empty()) {
    throw Unavailable(
        "no controller of this user is running; a program with a forge::Controller shows up here "
        "while it runs, unless ControllerOptions::observable is false");
  }
  std::string names;
  for (const auto& one : found) {
    const std::string name = one.path.stem();
    if (wanted == name || (wanted.empty() && found.size() == 1)) return one;
    names += (names.empty() ? "" : ", ") + name;
  }
  if (wanted.empty()) {
    throw Unavailable("several controllers run (" + names +
                      "); choose one with --controller, forge ps shows which is which");
  }
  throw Unavailable("there is no controller " + wanted + "; those that run: " + names);
}

// ---- statistics

Watch::Watch(Connection& connection) : connection_(connection) {
  connection_.send({{"command", "stats"}});
  take(connection_.answer());
  if (!reader_) throw InvalidArgument(connection_.name() + " did not hand over its statistics");
}

void Watch::take(const Json& answer) {
  if (!is_true(answer, "segment")) return;
  auto fd = connection_.take_fd();
  if (!fd) return;
  reader_.emplace(std::move(core::StatisticsReader::open(std::move(fd))).value());
  seen_ = 0;
}

Json Watch::read(bool* fresh) {
  const std::uint64_t newest = reader_->snapshots();
  if (fresh != nullptr) *fresh = newest != seen_;
  seen_ = newest;
  const std::string text = std::move(reader_->read()).value();
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("services"))
    throw InvalidArgument(connection_.name() + " wrote statistics that are none");
  return json;
}

std::chrono::milliseconds Watch::period() const {
  return std::chrono::milliseconds(reader_->period_ms());
}

}  // namespace forge::tool
