// What becomes of a controller's log lines: levels, FORGE_LOG, what standard error shows, and what
// on_log hears.
#include "core/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace forge::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using Lines = std::vector<std::pair<LogLevel, std::string>>;

constexpr LogLevel kAll[] = {LogLevel::debug, LogLevel::info, LogLevel::warning, LogLevel::error};

class LogTest : public ::testing::Test {
 protected:
  LogTest() { ::unsetenv("FORGE_LOG"); }
  ~LogTest() override { ::unsetenv("FORGE_LOG"); }

  OnLog hearing() {
    return [this](LogLevel level, std::string_view text) { heard.emplace_back(level, text); };
  }
  /// The levels that come through when it was asked for this one.
  std::vector<LogLevel> heard_at(LogLevel level) {
    const Log log(level, hearing());
    log.drain();
    heard.clear();  // what opening it had to say
    for (const LogLevel of : kAll) log(of, "a line");
    log.close();
    std::vector<LogLevel> levels;
    for (const auto& line : heard) levels.push_back(line.first);
    return levels;
  }

  Lines heard;
};

/// What is written to standard error while `f` runs, when that is `end`, whose other end is `from`.
template <class F>
std::string captured(int from, int end, F f) {
  const int saved = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
  ::dup2(end, STDERR_FILENO);
  f();
  std::fflush(stderr);
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  char bytes[4096];
  const ssize_t count = ::read(from, bytes, sizeof(bytes));
  ::close(end);
  ::close(from);
  return {bytes, count > 0 ? static_cast<std::size_t>(count) : 0};
}

template <class F>
std::string captured_in_a_pipe(F f) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  return captured(ends[0], ends[1], f);
}

TEST_F(LogTest, LetsThroughWhatIsOfItsLevelOrAbove) {
  EXPECT_THAT(heard_at(LogLevel::debug),
              ElementsAre(LogLevel::debug, LogLevel::info, LogLevel::warning, LogLevel::error));
  EXPECT_THAT(heard_at(LogLevel::info),
              ElementsAre(LogLevel::info, LogLevel::warning, LogLevel::error));
  EXPECT_THAT(heard_at(LogLevel::warning), ElementsAre(LogLevel::warning, LogLevel::error));
  EXPECT_THAT(heard_at(LogLevel::error), ElementsAre(LogLevel::error));
  EXPECT_THAT(heard_at(LogLevel::off), IsEmpty());
}

TEST_F(LogTest, TheEnvironmentOverridesTheLevel) {
  for (const LogLevel& level : kAll) {
    ::setenv("FORGE_LOG", std::string(to_string(level)).c_str(), 1);
    const std::vector<LogLevel> from_there(&level, std::end(kAll));
    EXPECT_EQ(heard_at(LogLevel::off), from_there);
    EXPECT_EQ(heard_at(LogLevel::debug), from_there);
  }
  ::setenv("FORGE_LOG", "off", 1);
  EXPECT_THAT(heard_at(LogLevel::debug), IsEmpty());
  ::setenv("FORGE_LOG", "", 1);
  EXPECT_THAT(heard_at(LogLevel::error), ElementsAre(LogLevel::error)) << "as if it were not set";
}

TEST_F(LogTest, SaysThatTheEnvironmentNamesNoLevelAndKeepsItsOwn) {
  for (const char* const name : {"verbose", "Debug", "warning ", "{}"}) {
    ::setenv("FORGE_LOG", name, 1);
    EXPECT_THAT(heard_at(LogLevel::error), ElementsAre(LogLevel::error)) << name;
    (void)Log(LogLevel::off, hearing());
    EXPECT_EQ(heard.back().first, LogLevel::warning) << "whatever its own level is";
    EXPECT_THAT(heard.back().second, HasSubstr(std::string("FORGE_LOG is '") + name + "'"));
  }
}

TEST_F(LogTest, OnLogHearsTheTextAsItIs) {
  const Log log(LogLevel::debug, hearing());
  const std::string text = std::string("{} {0:d} %v %s\n\x1b[31m two lines \xff") + '\0' + "end";
  EXPECT_EQ(captured_in_a_pipe([&] {
              log(LogLevel::info, text);
              log(LogLevel::error, "");
              log.drain();
            }),
            "");
  EXPECT_THAT(heard, ElementsAre(std::pair(LogLevel::info, text),
                                 std::pair(LogLevel::error, std::string())));
}

TEST_F(LogTest, OnLogHearsOneLineAtATime) {
  std::atomic<int> inside{0};
  int lines = 0;  // not atomic: a thread sanitizer would see two at once
  const Log log(LogLevel::info, [&](LogLevel, std::string_view) {
    EXPECT_EQ(inside.fetch_add(1), 0);
    ++lines;
    inside.fetch_sub(1);
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 1000; ++n) log(LogLevel::info, "a line");
    });
  }
  for (std::thread& thread : threads) thread.join();
  log.close();
  EXPECT_EQ(lines, 4000);
}

TEST_F(LogTest, WhatOnLogThrowsIsCountedAndToldButNotEachTime) {
  const auto told = [](const OnLog& on_log) {
    return captured_in_a_pipe([&] {
      const Log log(LogLevel::info, on_log);
      for (int i = 0; i < 7; ++i) log(LogLevel::info, "a line");
    });
  };
  const std::string typed =
      told([](LogLevel, std::string_view) { throw std::runtime_error("the disk is full"); });
  EXPECT_THAT(typed, HasSubstr("on_log threw: the disk is full (1 times so far)"));
  EXPECT_THAT(typed, HasSubstr("(4 times so far); the line was: a line\n"));
  EXPECT_EQ(std::count(typed.begin(), typed.end(), '\n'), 3);
  EXPECT_THAT(told([](LogLevel, std::string_view) { throw 1; }), HasSubstr("on_log threw"));
}

TEST_F(LogTest, StandardErrorHasTimeAndLevelAndNoColoursOutsideOfATerminal) {
  const std::string text = captured_in_a_pipe([] {
    const Log log(LogLevel::warning, nullptr);
    log(LogLevel::info, "not this");
    log(LogLevel::warning, "it is {so} 100% hot");
  });
  EXPECT_THAT(text, MatchesRegex("20[0-9-]+ [0-9]+:[0-9]+:[0-9.]+ forge \\[warning\\] "
                                 "it is \\{so\\} 100% hot\n"));
}

TEST_F(LogTest, ATerminalGetsColours) {
  ::setenv("TERM", "xterm-256color", 1);
  int terminal = -1;
  int end = -1;
  ASSERT_EQ(::openpty(&terminal, &end, nullptr, nullptr, nullptr), 0);
  const std::string text =
      captured(terminal, end, [] { Log(LogLevel::warning, nullptr)(LogLevel::error, "too hot"); });
  EXPECT_THAT(text, HasSubstr("\x1b["));
  EXPECT_THAT(text, HasSubstr("forge ["));
  EXPECT_THAT(text, HasSubstr("] too hot"));
}

TEST_F(LogTest, AClosedStandardErrorIsNoError) {
  const int saved = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
  ::close(STDERR_FILENO);
  const Log log(LogLevel::debug);
  EXPECT_NO_THROW(log(LogLevel::error, "nobody reads this"));
  log.drain();
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
}

}  // namespace
}  // namespace forge::core
