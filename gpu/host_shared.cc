#include "gpu/host_shared.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

namespace forge::gpu {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kKindHost = 1;

/// What IpcHandle::native holds: a descriptor of a process, and what it must be of.
struct Native {
  std::int64_t pid;
  std::int64_t fd;
  std::uint64_t device;
  std::uint64_t inode;
};
static_assert(sizeof(Native) <= sizeof(IpcHandle::native));

std::string reason() { return std::generic_category().message(errno); }

}  // namespace

Result<std::unique_ptr<HostSharedBuffer>> HostSharedBuffer::create(std::size_t bytes) {
  shm::FileDescriptor file(::memfd_create("forge:device", MFD_CLOEXEC));
  if (!file || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return make_error({ErrorCode::unavailable,
                       "shared device memory of " + std::to_string(bytes) + " bytes: " + reason()});
  }
  return map(std::move(file), bytes);
}

Result<std::unique_ptr<HostSharedBuffer>> HostSharedBuffer::open(const IpcHandle& handle) {
  if (handle.version != kVersion || handle.kind != kKindHost) {
    return make_error({ErrorCode::invalid_argument,
                       "shared device memory: this is no handle of the host backend; export and "
                       "import must be done by backends of one kind"});
  }
  Native native;
  std::memcpy(&native, handle.native.data(), sizeof(native));
  const std::string path =
      "/proc/" + std::to_string(native.pid) + "/fd/" + std::to_string(native.fd);
  shm::FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat found {};
  const bool same = file && ::fstat(file.get(), &found) == 0 && found.st_dev == native.device &&
                    found.st_ino == native.inode &&
                    static_cast<std::uint64_t>(found.st_size) == handle.size;
  if (!same) {
    return make_error({ErrorCode::unavailable,
                       "shared device memory: process " + std::to_string(native.pid) +
                           " does not have it any more; its owner must keep the buffer until all "
                           "who opened it have dropped it"});
  }
  return map(std::move(file), handle.size);
}

Result<std::unique_ptr<HostSharedBuffer>> HostSharedBuffer::map(shm::FileDescriptor file,
                                                                std::size_t bytes) {
  void* data = nullptr;
  if (bytes > 0) {
    data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (data == MAP_FAILED) {
      return make_error(
          {ErrorCode::unavailable,
           "shared device memory of " + std::to_string(bytes) + " bytes: " + reason()});
    }
  }
  return std::unique_ptr<HostSharedBuffer>(
      new HostSharedBuffer(std::move(file), static_cast<std::byte*>(data), bytes));
}

HostSharedBuffer::~HostSharedBuffer() {
  if (size() > 0) ::munmap(device_data(), size());
}

Result<IpcHandle> HostSharedBuffer::handle() const {
  struct stat found {};
  if (::fstat(file_.get(), &found) != 0) {
    return make_error({ErrorCode::unavailable, "shared device memory: " + reason()});
  }
  const Native native{::getpid(), file_.get(), found.st_dev, found.st_ino};
  IpcHandle handle{.version = kVersion, .kind = kKindHost, .size = size()};
  std::memcpy(handle.native.data(), &native, sizeof(native));
  return handle;
}

}  // namespace forge::gpu
