#include "tests/failpoints/trigger.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <system_error>

namespace forge::failpoints {

std::vector<Point> points() {
  return {
#define FORGE_FAILPOINT_ROW(name, when, throws) {shm::Failpoint::name, #name, When::when, throws},
      FORGE_EACH_FAILPOINT(FORGE_FAILPOINT_ROW)
#undef FORGE_FAILPOINT_ROW
  };
}

std::vector<Point> points(When when) {
  std::vector<Point> some = points();
  std::erase_if(some, [when](const Point& point) { return point.when != when; });
  return some;
}

Trigger::Trigger() : fd_(::memfd_create("failpoints", MFD_CLOEXEC)) {
  constexpr std::size_t kBytes = sizeof(shm::FailTrigger);
  void* memory = MAP_FAILED;
  if (fd_ && ::ftruncate(fd_.get(), kBytes) == 0)
    memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "failpoints");
  trigger_ = new (memory) shm::FailTrigger;
}

Trigger::~Trigger() { ::munmap(trigger_, sizeof(shm::FailTrigger)); }

std::string Trigger::path() const {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd_.get());
}

}  // namespace forge::failpoints
