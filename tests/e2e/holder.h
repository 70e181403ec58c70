// A process that SIGKILL does not end, as one that sits in a driver.
#pragma once

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <stdexcept>

namespace forge::e2e {

/// Holds a process at the last moment of its exit, where SIGKILL does not end it: as a driver does.
class Holder {
 public:
  explicit Holder(int pid) {
    if (::pipe2(pipe_, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
    helper_ = ::fork();  // the child makes system calls only
    if (helper_ == 0) {
      const long held = ::ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_TRACEEXIT);
      const char answer = held == 0 ? 'y' : 'n';
      (void)!::write(pipe_[1], &answer, 1);
      if (held != 0) ::_exit(1);
      for (;;) ::pause();
    }
    char answer = 'n';
    holds_ = ::read(pipe_[0], &answer, 1) == 1 && answer == 'y';
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() {
    release();
    ::close(pipe_[0]);
    ::close(pipe_[1]);
  }
  bool holds() const { return holds_; }
  void release() {
    if (helper_ <= 0) return;
    ::kill(helper_, SIGKILL);
    while (::waitpid(helper_, nullptr, 0) < 0 && errno == EINTR) continue;
    helper_ = -1;
  }

 private:
  int pipe_[2] = {-1, -1};
  pid_t helper_ = -1;
  bool holds_ = false;
};

}  // namespace forge::e2e
