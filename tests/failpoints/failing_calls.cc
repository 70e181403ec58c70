#include "tests/failpoints/failing_calls.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

namespace forge::failpoints {
namespace {

std::atomic<int> left{0};  // calls until one fails; 0: none does
std::atomic<const char*> failed{nullptr};
const char* report = nullptr;

/// In a worker: is it the first to come so far?
bool may_fail(const char* name) {
  if (report == nullptr) return true;
  const int fd = ::open(report, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  (void)!::write(fd, name, std::strlen(name));
  ::close(fd);
  return true;
}

bool fails(const char* name, int error) {
  if (left.load(std::memory_order_relaxed) == 0 || left.fetch_sub(1) != 1) return false;
  if (!may_fail(name)) return false;
  failed.store(name);
  errno = error;
  return true;
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

void fail_call(int n) {
  failed.store(nullptr);
  left.store(n);
}

std::string stop_failing() {
  left.store(0);
  const char* const name = failed.load();
  return name == nullptr ? "" : name;
}

void fail_call_as_told() {
  const char* const n = std::getenv(kFailCall);
  if (n == nullptr) return;
  report = std::getenv(kFailReport);
  fail_call(std::atoi(n));
}

}  // namespace forge::failpoints

using forge::failpoints::fails;
using forge::failpoints::next;

// Those that say -1 and set errno. Which of libc's they hide, and what these say of exceptions, is
// checked by the compiler, which has seen their headers.
#define FORGE_FAILING_CALL(name, error, specifier, parameters, arguments) \
  int name parameters specifier {                                         \
    static const auto real = next<int(*) parameters>(#name);              \
    return fails(#name, error) ? -1 : real arguments;                     \
  }

extern "C" {

FORGE_FAILING_CALL(memfd_create, EMFILE, noexcept, (const char* name, unsigned flags),
                   (name, flags))
FORGE_FAILING_CALL(ftruncate, EINVAL, noexcept, (int fd, off_t size), (fd, size))
FORGE_FAILING_CALL(fallocate, ENOSPC, , (int fd, int mode, off_t offset, off_t size),
                   (fd, mode, offset, size))
FORGE_FAILING_CALL(madvise, ENOMEM, noexcept, (void* memory, std::size_t size, int advice),
                   (memory, size, advice))
FORGE_FAILING_CALL(pipe2, EMFILE, noexcept, (int* ends, int flags), (ends, flags))
FORGE_FAILING_CALL(eventfd, EMFILE, noexcept, (unsigned count, int flags), (count, flags))
FORGE_FAILING_CALL(epoll_create1, EMFILE, noexcept, (int flags), (flags))
FORGE_FAILING_CALL(epoll_ctl, ENOSPC, noexcept, (int epoll, int op, int fd, epoll_event* event),
                   (epoll, op, fd, event))
FORGE_FAILING_CALL(socket, EMFILE, noexcept, (int domain, int type, int protocol),
                   (domain, type, protocol))
FORGE_FAILING_CALL(bind, ENOMEM, noexcept, (int fd, const sockaddr* address, socklen_t size),
                   (fd, address, size))
FORGE_FAILING_CALL(getsockname, ENOBUFS, noexcept, (int fd, sockaddr* address, socklen_t* size),
                   (fd, address, size))
FORGE_FAILING_CALL(fstat, ENOMEM, noexcept, (int fd, struct stat* status), (fd, status))
FORGE_FAILING_CALL(sched_setaffinity, EINVAL, noexcept,
                   (pid_t pid, std::size_t size, const cpu_set_t* cpus), (pid, size, cpus))

int fcntl(int fd, int command, ...) {
  static const auto real = next<int (*)(int, int, ...)>("fcntl");
  va_list rest;
  va_start(rest, command);
  const long argument = va_arg(rest, long);
  va_end(rest);
  return fails("fcntl", EMFILE) ? -1 : real(fd, command, argument);
}

int prctl(int option, ...) noexcept {
  static const auto real = next<int (*)(int, ...)>("prctl");
  va_list rest;
  va_start(rest, option);
  const auto argument = va_arg(rest, unsigned long);
  va_end(rest);
  return fails("prctl", EPERM) ? -1 : real(option, argument, 0UL, 0UL, 0UL);
}

void* mmap(void* address, std::size_t size, int protection, int flags, int fd,
           off_t offset) noexcept {
  static const auto real = next<void* (*)(void*, std::size_t, int, int, int, off_t)>("mmap");
  return fails("mmap", ENOMEM) ? MAP_FAILED : real(address, size, protection, flags, fd, offset);
}

int posix_spawn(pid_t* pid, const char* path, const posix_spawn_file_actions_t* actions,
                const posix_spawnattr_t* attributes, char* const* arguments,
                char* const* environment) {
  static const auto real = next<decltype(&::posix_spawn)>("posix_spawn");
  return fails("posix_spawn", EAGAIN)
             ? EAGAIN
             : real(pid, path, actions, attributes, arguments, environment);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                   void* argument) noexcept {
  static const auto real = next<decltype(&::pthread_create)>("pthread_create");
  return fails("pthread_create", EAGAIN) ? EAGAIN : real(thread, attributes, body, argument);
}

// Of those that libc has no name for, pidfd_open alone. Whatever else it has been given lies in
// registers or above us on the stack.
__attribute__((no_sanitize("address", "thread", "undefined"))) long syscall(long number,
                                                                            ...) noexcept {
  static const auto real = next<long (*)(long, ...)>("syscall");
  va_list rest;
  va_start(rest, number);
  long argument[6];
  for (long& each : argument) each = va_arg(rest, long);
  va_end(rest);
  if (number == SYS_pidfd_open && fails("pidfd_open", EMFILE)) return -1;
  return real(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}

}  // extern "C"
