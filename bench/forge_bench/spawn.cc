#include "bench/forge_bench/spawn.h"

#include <dlfcn.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "bench/forge_bench/stats.h"

namespace forge::bench {

int open_plugin(const char* path) {
  // _exit: a worker that is up would not be running destructors either.
  ::_exit(::dlopen(path, RTLD_NOW | RTLD_LOCAL) != nullptr ? 0 : 1);
}

double spawn_and_open_ns(const std::string& plugin) {
  std::string self = "/proc/self/exe";
  std::string how = kOpenPlugin;
  std::string path = plugin;
  char* const arguments[] = {self.data(), how.data(), path.data(), nullptr};
  pid_t child = -1;
  const std::int64_t begin = now_ns();
  const int refused = ::posix_spawn(&child, self.c_str(), nullptr, nullptr, arguments, environ);
  if (refused != 0)
    throw std::runtime_error("posix_spawn: " + std::generic_category().message(refused));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const std::int64_t end = now_ns();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw std::runtime_error("a bare process could not open " + plugin);
  }
  return static_cast<double>(end - begin);
}

}  // namespace forge::bench
