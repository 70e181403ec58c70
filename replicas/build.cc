#include "replicas/build.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <sstream>
#include <vector>

#include "shm/file_descriptor.h"

namespace forge::replicas {
namespace {

std::int64_t in_ns(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

/// Eight bytes at a time: fast, and good enough against accidents.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      std::uint64_t word = 0;
      const std::size_t count = std::min(bytes.size(), sizeof(word));
      std::memcpy(&word, bytes.data(), count);
      bytes = bytes.subspan(count);
      state_ = (state_ ^ word) * 0x9E37'79B9'7F4A'7C15U;
      state_ ^= state_ >> 32;
    }
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xCBF2'9CE4'8422'2325U;
};

FileIdentity identity_of(const struct stat& status) {
  return {status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size),
          in_ns(status.st_mtim), 0};
}

bool same_file(const FileIdentity& one, const FileIdentity& other) {
  return one.device == other.device && one.inode == other.inode && one.size == other.size &&
         one.changed_ns == other.changed_ns;
}

std::optional<FileIdentity> look(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return identity_of(status);
}

/// With its hash. Nothing if it cannot be read, or changes meanwhile.
std::optional<FileIdentity> read(const std::string& path) {
  const shm::FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  FileIdentity identity = identity_of(status);
  Hash hash;
  std::vector<std::byte> buffer(std::size_t{256} *
                                1024);  // a multiple of what Hash takes at a time
  for (std::size_t filled = 0;;) {
    const ssize_t count = ::read(fd.get(), buffer.data() + filled, buffer.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return std::nullopt;
    filled += static_cast<std::size_t>(count);
    if (count != 0 && filled < buffer.size()) continue;
    hash.add(std::span(buffer).first(filled));
    filled = 0;
    if (count == 0) break;
  }
  identity.hash = hash.value();
  if (::fstat(fd.get(), &status) != 0 || !same_file(identity, identity_of(status)))
    return std::nullopt;
  return identity;
}

/// The linker's id of the object that this function is part of.
std::string library_build() {
  struct Search {
    std::uintptr_t address;
    std::string id;
  } search{reinterpret_cast<std::uintptr_t>(&library_build), {}};
  const auto visit = [](dl_phdr_info* object, std::size_t, void* data) {
    auto& wanted = *static_cast<Search*>(data);
    const std::span segments(object->dlpi_phdr, object->dlpi_phnum);
    const bool ours = std::ranges::any_of(segments, [&](const ElfW(Phdr) & segment) {
      const std::uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
      return segment.p_type == PT_LOAD && wanted.address >= begin &&
             wanted.address - begin < segment.p_memsz;
    });
    if (!ours) return 0;
    for (const ElfW(Phdr) & segment : segments) {
      if (segment.p_type != PT_NOTE) continue;
      const auto* at = reinterpret_cast<const char*>(object->dlpi_addr + segment.p_vaddr);
      const char* const end = at + segment.p_memsz;
      while (static_cast<std::size_t>(end - at) >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) note{};
        std::memcpy(&note, at, sizeof(note));
        const char* const name = at + sizeof(note);
        const char* const id = name + (note.n_namesz + 3) / 4 * 4;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            std::memcmp(name, "GNU", 4) == 0) {
          constexpr std::string_view kDigits = "0123456789abcdef";
          for (std::size_t i = 0; i < note.n_descsz; ++i) {
            const auto byte = static_cast<unsigned char>(id[i]);
            wanted.id += {kDigits[byte >> 4], kDigits[byte & 15]};
          }
          return 1;
        }
        at = id + (note.n_descsz + 3) / 4 * 4;
      }
    }
    return 1;
  };
  ::dl_iterate_phdr(visit, &search);
  return search.id.empty() ? "-" : search.id;
}

Status changed(const std::string& what) { return {ErrorCode::plugin_error, what, {}}; }

}  // namespace

std::string find_build(const std::string& plugin) {
  FileIdentity file;
  if (!plugin.empty()) {
    const auto found = read(plugin);
    if (!found) return {};
    file = *found;
  }
  std::ostringstream text;
  text << file.device << ' ' << file.inode << ' ' << file.size << ' ' << file.changed_ns << ' '
       << file.hash << ' ' << library_build();
  return text.str();
}

Status check_build(const std::string& plugin, const std::string& build) {
  if (build.empty() || std::getenv(kAnyBuild) != nullptr)
    return {};  // NOLINT(concurrency-mt-unsafe)
  FileIdentity file;
  std::string library;
  std::istringstream text(build);
  text >> file.device >> file.inode >> file.size >> file.changed_ns >> file.hash >> library;
  if (library != library_build()) {
    return changed(
        "forge was changed on disk while this program runs: its workers would run another build of "
        "libforge-serve than those that were started first; start the program again");
  }
  const auto found = plugin.empty() ? std::nullopt : look(plugin);
  if (!found || same_file(*found, file)) return {};
  if (found->size == file.size) {
    const auto contents = read(plugin);
    if (contents && contents->hash == file.hash) return {};
  }
  return changed("plugin \"" + plugin +
                 "\" has changed on disk since it was loaded; load() it again and update() the "
                 "service to the new one, or put the old one back");
}

}  // namespace forge::replicas
