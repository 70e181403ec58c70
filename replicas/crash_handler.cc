// Runs when the worker is about to die of a signal: nothing here allocates or locks, but for what
// backtrace() and dladdr() do; should they hang or crash themselves, an alarm or the second signal
// ends the process.
#include <dlfcn.h>
#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "replicas/flight.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FORGE_SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FORGE_SANITIZED true
#endif
#endif
#ifndef FORGE_SANITIZED
#define FORGE_SANITIZED false
#endif

namespace forge::replicas {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr int kFrames = 24;
constexpr std::size_t kStack = 64 * 1024;

shm::CrashNote* note_of_process = nullptr;
std::atomic_flag noted = ATOMIC_FLAG_INIT;

/// Appends to the note's text.
class Text {
 public:
  explicit Text(shm::CrashNote& note) : note_(note) {}
  void put(const char* text) {
    for (; *text != 0 && size_ + 1 < sizeof(note_.text); ++text) note_.text[size_++] = *text;
    note_.size = static_cast<std::uint32_t>(size_);
  }
  void hex(std::uintptr_t number) {
    char digits[19] = "0x";
    int count = 1;
    while (count < 16 && number >> 4 * count != 0) ++count;
    for (int i = 0; i < count; ++i)
      digits[2 + i] = "0123456789abcdef"[number >> 4 * (count - 1 - i) & 15];
    digits[2 + count] = 0;
    put(digits);
  }

 private:
  shm::CrashNote& note_;
  std::size_t size_ = 0;
};

const char* name_of(const char* path) {
  const char* const slash = path == nullptr ? nullptr : std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

/// "<symbol> <file>+<offset>": offsets are what addr2line -e takes.
void put_frame(Text& text, void* frame) {
  Dl_info info{};
  const bool known = ::dladdr(frame, &info) != 0 && info.dli_fname != nullptr;
  text.put(known && info.dli_sname != nullptr ? info.dli_sname : "?");
  text.put(" ");
  if (known) {
    text.put(name_of(info.dli_fname));
    text.put("+");
  }
  text.hex(reinterpret_cast<std::uintptr_t>(frame) -
           (known ? reinterpret_cast<std::uintptr_t>(info.dli_fbase) : 0));
  text.put("\n");
}

void on_signal(int number, siginfo_t* info, void* /*context*/) {
  if (!noted.test_and_set()) {
    ::alarm(2);
    shm::CrashNote& note = *note_of_process;
    note.size = 0;
    note.address = number == SIGABRT ? 0 : reinterpret_cast<std::uintptr_t>(info->si_addr);
    note.signal = number;
    void* frames[kFrames];
    const int count = ::backtrace(frames, kFrames);
    Text text(note);
    for (int i = 2; i < count; ++i) put_frame(text, frames[i]);  // behind ours and the kernel's
  }
  ::signal(number, SIG_DFL);
  ::raise(number);  // when we return
}

}  // namespace

bool wants_backtrace() {
  const char* const value = std::getenv(kBacktraceVariable);
  return value != nullptr && *value != 0 && std::strcmp(value, "0") != 0;
}

void note_crashes(shm::CrashNote& note) {
  if (FORGE_SANITIZED) return;
  note_of_process = &note;
  void* frame = nullptr;
  ::backtrace(&frame, 1);  // loads what it needs, which a handler must not
  // A stack that has overflown has no room for a handler.
  static std::byte stack[kStack];
  const stack_t other{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
  ::sigaltstack(&other, nullptr);
  struct sigaction action {};
  action.sa_sigaction = &on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  for (const int number : kSignals) ::sigaction(number, &action, nullptr);
}

}  // namespace forge::replicas
