// The terminal while forge top has it: a screen of its own, keys as they are pressed.
#pragma once

#include <termios.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace forge::tool {

struct Size {
  std::size_t rows = 24;
  std::size_t columns = 80;
};

/// One at a time. Gives the terminal back as it was, whatever ends the program but SIGKILL.
class Terminal {
 public:
  /// Throws InvalidArgument if standard input and output are no terminal.
  Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();

  Size size() const;
  void show(const std::vector<std::string>& lines) const;

  enum class Woken { time, key, resized, ended, other };
  /// Sleeps until then, a key, another size, a signal to end, or something to read from `other`.
  Woken wait(std::chrono::steady_clock::time_point until, int other, char& key) const;

 private:
  termios before_{};
};

}  // namespace forge::tool
