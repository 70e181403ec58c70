// What process_test and spawner_test are when they start themselves as children: `<test> role <name> …`.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "replicas/process.h"

namespace forge::replicas::test {

inline constexpr int kReportFd = 3;  // roles write here
inline constexpr int kOrdersFd = 4;  // and read, or wait for the end, here

struct Pipe {
  shm::FileDescriptor read;
  shm::FileDescriptor write;
};

inline Pipe make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) std::abort();
  return {shm::FileDescriptor(fds[0]), shm::FileDescriptor(fds[1])};
}

inline void say(const std::string& text) {
  if (::write(kReportFd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    std::_Exit(99);
  }
}

/// Everything until all writers are gone.
inline std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(n));
  }
  return text;
}

inline std::string read_line(int fd) {
  std::string line;
  for (char c; ::read(fd, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}

inline void wait_for_end(int fd) { read_all(fd); }

/// number → what it shows, for each descriptor open in this process.
inline std::map<int, std::string> open_fds() {
  namespace fs = std::filesystem;
  std::map<int, std::string> fds;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const auto target = fs::read_symlink(entry.path(), error).string();
    const bool our_own_look = target.ends_with("/fd") && target.starts_with("/proc/");
    if (!error && !our_own_look) fds[std::stoi(entry.path().filename())] = target;
  }
  return fds;
}

inline std::string test_program() { return std::filesystem::read_symlink("/proc/self/exe"); }

inline SpawnSpec role(std::string name, std::vector<std::string> arguments, int report,
                      int orders = -1) {
  SpawnSpec spec{.path = test_program(),
                 .arguments = {"role", std::move(name)},
                 .environment = {},
                 .fds = {{report, kReportFd}}};
  spec.arguments.insert(spec.arguments.end(), arguments.begin(), arguments.end());
  if (orders >= 0) spec.fds.push_back({orders, kOrdersFd});
  return spec;
}

inline SpawnSpec shell(const std::string& script) {
  return {.path = "/bin/sh",
          .arguments = {"-c", script},
          .environment = {"PATH=/usr/bin:/bin"},
          .fds = {}};
}

/// Reports its whole inheritance, one line each.
inline int report_state(int argc, char** argv) {
  for (const auto& [fd, target] : open_fds()) {
    say("fd " + std::to_string(fd) + " " + target.substr(0, target.find(':')) + "\n");
  }
  sigset_t mask;
  ::sigprocmask(SIG_SETMASK, nullptr, &mask);
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    if (signal > 31 && signal < SIGRTMIN) continue;  // the C library's own
    if (::sigismember(&mask, signal) == 1) say("blocked " + std::to_string(signal) + "\n");
    struct sigaction action {};
    ::sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_IGN) say("ignored " + std::to_string(signal) + "\n");
  }
  if (::getpgrp() == ::getpid()) say("leads its group\n");
  for (int i = 3; i < argc; ++i) say(std::string("argument ") + argv[i] + "\n");
  for (char** variable = environ; *variable != nullptr; ++variable) {
    say(std::string("variable ") + *variable + "\n");
  }
  return 0;
}

inline int run_role(int argc, char** argv) {
  const std::string_view name = argv[2];
  if (name == "state") return report_state(argc, argv);
  if (name == "follow") {  // dies with its parent, else stays for ever
    if (!die_with_parent(std::stoi(argv[3])).ok()) return 1;
    say("following\n");
    for (;;) ::pause();
  }
  if (name == "lead") {  // starts a follower and stays
    auto child = spawn_process(role("follow", {std::to_string(::getpid())}, kReportFd));
    if (!child) return 1;
    for (;;) ::pause();
  }
  if (name == "stay") {  // until killed; may be traced by anybody
    ::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    say("here\n");
    for (;;) ::pause();
  }
  if (name == "trace") {  // holds another process as a debugger does, until told to let go
    const bool held = ::ptrace(PTRACE_SEIZE, std::stoi(argv[3]), nullptr, nullptr) == 0;
    say(held ? "held\n" : "refused\n");
    wait_for_end(kOrdersFd);
    return 0;
  }
  return 98;
}

}  // namespace forge::replicas::test

// Takes the place of gmock_main's.
#define FORGE_TEST_MAIN_WITH_ROLES                         \
  int main(int argc, char** argv) {                        \
    if (argc > 2 && std::string_view(argv[1]) == "role") { \
      return forge::replicas::test::run_role(argc, argv);  \
    }                                                      \
    ::testing::InitGoogleMock(&argc, argv);                \
    return RUN_ALL_TESTS();                                \
  }                                                        \
  static_assert(true)
