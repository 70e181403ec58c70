// A plugin whose actors print, in all ways that actors print.
#include <fcntl.h>
#include <forge/plugin.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

namespace {

class Talker : public forge::ForgeActor {
 public:
  void setup() override { std::printf("ready\n"); }

  void print(const std::string& text) const { std::printf("%s", text.c_str()); }
  /// Straight to the descriptor.
  void write(std::int64_t fd, const std::string& text) const {
    if (::write(static_cast<int>(fd), text.data(), text.size()) != std::ssize(text)) std::abort();
  }
  /// Numbered lines of different lengths, on stdout and stderr in turn.
  void burst(std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::string line = std::to_string(i) + " " + std::string(i % 120, '.') + "\n";
      (i % 2 == 0 ? std::cout : std::cerr) << line;
    }
  }
  void last_words(const std::string& text) const {
    std::fputs(text.c_str(), stderr);
    std::abort();
  }
  /// Leaves a process behind that keeps our stdout and stderr open. Gives its pid.
  std::int64_t leave_child() const {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::setsid();  // out of the group that is killed with us
      ::signal(SIGPIPE, SIG_IGN);
      for (;;) {
        (void)!::write(STDOUT_FILENO, "child\n", 6);
        ::usleep(1000);
      }
    }
    return pid;
  }
};

}  // namespace

FORGE_PLUGIN(m) {
  m.actor<Talker>("Talker", "Prints.")
      .endpoint("print", &Talker::print)
      .endpoint("write", &Talker::write)
      .endpoint("burst", &Talker::burst)
      .endpoint("last_words", &Talker::last_words)
      .endpoint("leave_child", &Talker::leave_child);
}
