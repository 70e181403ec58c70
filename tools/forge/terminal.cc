#include "tools/forge/terminal.h"

#include <forge/error.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace forge::tool {
namespace {

constexpr const char* kEnter = "\x1b[?1049h\x1b[?25l";  // another screen, no cursor
constexpr const char* kLeave = "\x1b[?25h\x1b[?1049l";

volatile sig_atomic_t resized = 0;
volatile sig_atomic_t ended = 0;

void on_signal(int signal) { (signal == SIGWINCH ? resized : ended) = 1; }

constexpr std::array kSignals{SIGWINCH, SIGINT, SIGTERM, SIGHUP};

/// They come only while we sleep, so that none is missed.
sigset_t ours() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  return set;
}

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno != EINTR && errno != EAGAIN) return;
    if (written > 0) text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

Terminal::Terminal() {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0 ||
      ::tcgetattr(STDIN_FILENO, &before_) != 0) {
    throw InvalidArgument(
        "forge top needs a terminal; use forge top --once, or forge stats, in scripts");
  }
  const sigset_t set = ours();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  struct sigaction action {};
  action.sa_handler = on_signal;
  for (const int signal : kSignals) ::sigaction(signal, &action, nullptr);
  termios raw = before_;
  raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  raw.c_cc[VMIN] = 0;
  raw.c_cc[VTIME] = 0;
  ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  write_all(kEnter);
}

Terminal::~Terminal() {
  write_all(kLeave);
  ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
}

Size Terminal::size() const {
  winsize found{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &found) != 0 || found.ws_row == 0 || found.ws_col == 0)
    return {};
  return {found.ws_row, found.ws_col};
}

void Terminal::show(const std::vector<std::string>& lines) const {
  std::string text = "\x1b[H";
  for (std::size_t i = 0; i < lines.size(); ++i)
    text += lines[i] + "\x1b[K" + (i + 1 < lines.size() ? "\r\n" : "");
  write_all(text + "\x1b[J");
}

Terminal::Woken Terminal::wait(std::chrono::steady_clock::time_point until, int other,
                               char& key) const {
  const auto left = std::max(std::chrono::nanoseconds(0),
                             std::chrono::nanoseconds(until - std::chrono::steady_clock::now()));
  const timespec limit{static_cast<time_t>(left.count() / 1'000'000'000),
                       static_cast<long>(left.count() % 1'000'000'000)};
  std::array<pollfd, 2> events{pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{other, POLLIN, 0}};
  sigset_t none;
  sigemptyset(&none);
  const int ready = ::ppoll(events.data(), events.size(), &limit, &none);
  if (ended != 0) return Woken::ended;
  if (resized != 0) {
    resized = 0;
    return Woken::resized;
  }
  if (ready <= 0) return Woken::time;
  if (events[0].revents != 0) {
    const ssize_t count = ::read(STDIN_FILENO, &key, 1);
    if (count > 0) return Woken::key;
    // It is gone, or says so without anything to read: without it nobody could press q.
    if ((events[0].revents & (POLLHUP | POLLERR)) != 0 || count == 0) return Woken::ended;
  }
  return events[1].revents != 0 ? Woken::other : Woken::time;
}

}  // namespace forge::tool
