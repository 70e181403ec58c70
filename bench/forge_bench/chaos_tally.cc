#include "bench/forge_bench/chaos_tally.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace forge::bench {
namespace {

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

ChaosTally::ChaosTally(std::size_t slots)
    : slots_(slots), fd_(::memfd_create("forge-bench:tally", MFD_CLOEXEC)) {
  const std::size_t bytes = chaos::Tally::bytes(slots_);
  if (!fd_ || ::ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) fail("making the tally");
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (memory == MAP_FAILED) fail("mapping the tally");
  tally_ = static_cast<chaos::Tally*>(memory);
}

ChaosTally::~ChaosTally() { ::munmap(tally_, chaos::Tally::bytes(slots_)); }

std::string ChaosTally::path() const {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd_.get());
}

}  // namespace forge::bench
