#include "shm/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <system_error>

#include "shm/system_calls.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace forge::shm {
namespace {

namespace bip = boost::interprocess;

constexpr std::size_t kLongestName = 249;  // memfd_create(2)

/// Lets Boost map a descriptor it did not open.
struct MappableFd {
  int fd;
  bip::mapping_handle_t get_mapping_handle() const {
    return bip::ipcdetail::mapping_handle_from_file_handle(fd);
  }
};

std::shared_ptr<const Error> failure(ErrorCode code, const std::string& what, int error_number,
                                     const std::string& remedy = "") {
  return make_error({code, what + ": " + std::system_category().message(error_number) + remedy});
}

/// By a sandbox, or by a kernel that does not know the call.
bool refused(int error_number) { return error_number == ENOSYS || error_number == EPERM; }

bool seal(int fd, int seals) { return ::fcntl(fd, F_ADD_SEALS, seals) == 0; }

std::size_t read_number(const char* path, std::string_view key) {
  std::ifstream in(path);
  std::string word;
  while (in >> word) {
    if (!key.empty() && word != key) continue;
    if (!key.empty()) in >> word;
    try {
      return std::stoull(word);
    } catch (const std::exception&) {  // "max": no limit
      return std::numeric_limits<std::size_t>::max();
    }
  }
  return std::numeric_limits<std::size_t>::max();
}

}  // namespace

std::size_t available_memory() {
  const std::size_t machine = read_number("/proc/meminfo", "MemAvailable:");
  const std::size_t limit = read_number("/sys/fs/cgroup/memory.max", "");
  const std::size_t used = read_number("/sys/fs/cgroup/memory.current", "");
  constexpr auto kNone = std::numeric_limits<std::size_t>::max();
  const std::size_t by_machine = machine == kNone ? kNone : machine * 1024;
  const std::size_t by_limit =
      limit == kNone || used == kNone ? kNone : limit - std::min(limit, used);
  return std::min(by_machine, by_limit);
}

Result<Segment> Segment::create(const SegmentSpec& spec) {
  // The limits are looked at first: the kernel would rather kill somebody than refuse memory.
  if (const std::size_t available = available_memory(); spec.reserved > available) {
    return make_error(
        {ErrorCode::unavailable, "shared memory for " + spec.name + " needs " +
                                     std::to_string(spec.reserved) + " bytes, but only " +
                                     std::to_string(available) +
                                     " are available; ask for less (arena_bytes) or free some"});
  }
  const std::string name = spec.name.substr(0, kLongestName);
  int raw = ::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (raw < 0 && errno == EINVAL) {  // before Linux 6.3
    raw = ::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  }
  if (raw < 0) {
    const int error_number = errno;
    const bool descriptors = error_number == EMFILE || error_number == ENFILE;
    return failure(ErrorCode::unavailable,
                   "memfd_create for " + spec.name +
                       (descriptors ? " (raise the limit on open files, ulimit -n)" : ""),
                   error_number, refused(error_number) ? must_allow("memfd_create") : "");
  }
  FileDescriptor fd(raw);
  // Above it ftruncate would send SIGXFSZ, which ends the program.
  if (rlimit limit{}; ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && spec.size > limit.rlim_cur) {
    return failure(ErrorCode::unavailable,
                   spec.name + " needs " + std::to_string(spec.size) +
                       " bytes, which is more than this program's limit on the size of a file, " +
                       std::to_string(limit.rlim_cur) +
                       " bytes, and that counts for shared memory, too; raise it (ulimit -f) or "
                       "lower arena_bytes",
                   EFBIG);
  }
  if (::ftruncate(raw, static_cast<off_t>(spec.size)) != 0) {
    return failure(ErrorCode::unavailable, "sizing " + spec.name, errno);
  }
  if (spec.reserved > 0 && ::fallocate(raw, 0, 0, static_cast<off_t>(spec.reserved)) != 0) {
    return failure(ErrorCode::unavailable,
                   "reserving " + std::to_string(spec.reserved) + " bytes for " + spec.name +
                       " (lower arena_bytes or free memory)",
                   errno);
  }
  const bool ours = spec.writer != Writer::peer;
  auto segment = map(std::move(fd), ours ? Access::read_write : Access::read_only, spec.size);
  if (!segment) return segment;
  // Sealed after our own mapping exists: FUTURE_WRITE spares that one and refuses all others.
  const int writes = spec.writer == Writer::creator ? F_SEAL_FUTURE_WRITE : 0;
  const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  const bool sealed = seal(segment->fd(), seals | writes) ||
                      (writes != 0 && errno == EINVAL && seal(segment->fd(), seals));
  if (!sealed) {
    const int error_number = errno;
    return failure(ErrorCode::unavailable, "sealing " + spec.name, error_number,
                   refused(error_number) ? must_allow("fcntl(F_ADD_SEALS)") : "");
  }
  return segment;
}

Result<Segment> Segment::attach(FileDescriptor fd, Access access) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) {
    return failure(ErrorCode::invalid_argument, "looking at an inherited segment", errno);
  }
  return map(std::move(fd), access, static_cast<std::size_t>(status.st_size));
}

Result<Segment> Segment::map(FileDescriptor fd, Access access, std::size_t size) {
  try {
    const MappableFd mappable{fd.get()};
    bip::mapped_region region(
        mappable, access == Access::read_write ? bip::read_write : bip::read_only, 0, size);
    // A forked child of the host program must not hold our memory, and a core file need not show
    // it.
    ::madvise(region.get_address(), region.get_size(), MADV_DONTFORK);
    ::madvise(region.get_address(), region.get_size(), MADV_DONTDUMP);
    return Segment(std::move(fd), std::move(region));
  } catch (const bip::interprocess_exception& error) {
    return make_error({ErrorCode::unavailable, "mapping " + std::to_string(size) +
                                                   " bytes of shared memory: " + error.what()});
  }
}

bool Segment::reserve(std::size_t bytes) {
  if (!fd_) return bytes <= size();  // over(): backed already
  return bytes <= size() && ::fallocate(fd(), 0, 0, static_cast<off_t>(bytes)) == 0;
}

Status Segment::protect() {
  if (::mprotect(data(), size(), PROT_READ) == 0) return {};
  return to_status(*failure(ErrorCode::unavailable, "making shared memory read-only", errno));
}

void Segment::prefault(std::size_t bytes, Access access) {
#ifndef MADV_POPULATE_READ
  constexpr int kPopulateRead = 22;
  constexpr int kPopulateWrite = 23;
#else
  constexpr int kPopulateRead = MADV_POPULATE_READ;
  constexpr int kPopulateWrite = MADV_POPULATE_WRITE;
#endif
  // Linux 5.14; before that the pages fault in one by one, which is only slower.
  (void)::madvise(data(), std::min(bytes, size()),
                  access == Access::read_write ? kPopulateWrite : kPopulateRead);
}

}  // namespace forge::shm
