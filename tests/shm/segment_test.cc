// Segments: who may map them how, that their memory is there before it is touched, and that nothing
// of them is left behind.
#include "shm/segment.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/child.h"

namespace forge::shm {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kSize = std::size_t{1} << 20;
constexpr std::size_t kReserved = 64 * 1024;

Segment make(Writer writer, const std::string& name = "segment_test") {
  auto segment =
      Segment::create({.name = name, .size = kSize, .reserved = kReserved, .writer = writer});
  EXPECT_TRUE(segment) << segment.error().what();
  return std::move(*segment);
}

FileDescriptor duplicate(const Segment& segment) { return FileDescriptor(::dup(segment.fd())); }

/// errno of mapping the descriptor; 0 if it was mapped.
int map_error(int fd, int protection) {
  void* address = ::mmap(nullptr, kSize, protection, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return errno;
  ::munmap(address, kSize);
  return 0;
}

std::size_t backed_bytes(const Segment& segment) {
  struct stat status {};
  ::fstat(segment.fd(), &status);
  return static_cast<std::size_t>(status.st_blocks) * 512;
}

/// What the kernel says about the mapping that begins at `address`: permissions and VmFlags.
struct Mapping {
  std::string permissions;
  std::string flags;
};
Mapping mapping_at(const void* address) {
  std::ostringstream wanted;
  wanted << std::hex << reinterpret_cast<std::uintptr_t>(address) << "-";
  std::ifstream maps("/proc/self/smaps");
  Mapping mapping;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with(wanted.str())) {
      mapping.permissions = line.substr(line.find(' ') + 1, 4);
    } else if (!mapping.permissions.empty() && line.starts_with("VmFlags:")) {
      mapping.flags = line + " ";
      return mapping;
    }
  }
  return mapping;
}

/// Descriptors and mappings of this process whose name contains `name`.
std::size_t traces_of(const std::string& name) {
  std::size_t found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const auto target = std::filesystem::read_symlink(entry.path(), error).string();
    found += target.find(name) != std::string::npos;
  }
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) found += line.find(name) != std::string::npos;
  return found;
}

/// For its life, files of this process may not have more than `bytes`: the system refuses memory.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::size_t bytes) : before_signal_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, before_signal_);
  }

 private:
  rlimit before_{};
  void (*before_signal_)(int);
};

// ---- seals

TEST(Segment, StartsWithZerosOfItsSize) {
  const Segment segment = make(Writer::creator);
  EXPECT_EQ(segment.size(), kSize);
  EXPECT_TRUE(std::all_of(segment.data(), segment.data() + kReserved,
                          [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(segment.data()) % 4096, 0u);
}

TEST(Segment, OfItsCreatorCanBeMappedWritableByNobodyElse) {
  const Segment segment = make(Writer::creator);
  EXPECT_EQ(map_error(segment.fd(), PROT_READ), 0);
  EXPECT_EQ(map_error(segment.fd(), PROT_READ | PROT_WRITE), EPERM);
  EXPECT_EQ(map_error(segment.fd(), PROT_WRITE), EPERM);
  // Nor by opening it anew, nor by asking later, nor past the mapping.
  const FileDescriptor again(
      ::open(("/proc/self/fd/" + std::to_string(segment.fd())).c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(map_error(again.get(), PROT_READ | PROT_WRITE), EPERM);
  const Segment read = std::move(Segment::attach(duplicate(segment), Access::read_only)).value();
  EXPECT_EQ(::mprotect(read.data(), kSize, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(::pwrite(segment.fd(), "x", 1, 0), -1);
  EXPECT_FALSE(Segment::attach(duplicate(segment), Access::read_write));

  segment.data()[0] = std::byte{42};
  EXPECT_EQ(read.data()[0], std::byte{42}) << "the creator writes on";
}

TEST(Segment, OfAPeerIsReadOnlyToItsCreatorAndWritableToThePeer) {
  const Segment segment = make(Writer::peer);
  EXPECT_EQ(mapping_at(segment.data()).permissions, "r--s");
  tests::Child peer([&] {
    const auto attached = Segment::attach(duplicate(segment), Access::read_write);
    if (!attached || attached->size() != kSize) return 1;
    attached->data()[5] = std::byte{7};
    return 0;
  });
  EXPECT_EQ(peer.join(), 0);
  EXPECT_EQ(segment.data()[5], std::byte{7});
}

TEST(Segment, UnsealedCanBeMappedWritableUntilItsUserTakesThatBack) {
  const Segment segment = make(Writer::creator_unsealed);
  EXPECT_EQ(mapping_at(segment.data()).permissions, "rw-s");
  const Segment other = std::move(Segment::attach(duplicate(segment), Access::read_write)).value();
  ASSERT_EQ(::mprotect(other.data(), kSize, PROT_READ), 0);
  EXPECT_EQ(mapping_at(other.data()).permissions, "r--s");
  segment.data()[0] = std::byte{42};
  EXPECT_EQ(other.data()[0], std::byte{42});
}

TEST(Segment, NeitherGrowsNorShrinksNorLosesASeal) {
  for (const Writer writer : {Writer::creator, Writer::peer, Writer::creator_unsealed}) {
    const Segment segment = make(writer);
    EXPECT_EQ(::ftruncate(segment.fd(), kSize + 4096), -1);
    EXPECT_EQ(::ftruncate(segment.fd(), kSize - 4096), -1);
    EXPECT_EQ(::ftruncate(segment.fd(), 0), -1);
    EXPECT_EQ(::fallocate(segment.fd(), 0, 0, kSize + 4096), -1);
    EXPECT_EQ(::fcntl(segment.fd(), F_ADD_SEALS, F_SEAL_WRITE), -1)
        << "nobody can seal it against its writer";
    const int seals = ::fcntl(segment.fd(), F_GET_SEALS);
    EXPECT_EQ(seals & (F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL),
              F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  }
}

// ---- memory

TEST(Segment, IsBackedByWhatWasReservedAndSparseBeyond) {
  Segment segment = make(Writer::peer);
  EXPECT_EQ(backed_bytes(segment), kReserved);
  EXPECT_TRUE(segment.reserve(2 * kReserved));
  EXPECT_EQ(backed_bytes(segment), 2 * kReserved);
  EXPECT_TRUE(segment.reserve(kReserved)) << "less than there is: nothing to do";
  EXPECT_EQ(backed_bytes(segment), 2 * kReserved);
  EXPECT_TRUE(segment.reserve(kSize));
  EXPECT_EQ(backed_bytes(segment), kSize);
}

TEST(Segment, RefusesToReserveMoreThanItsSizeAndChangesNothing) {
  Segment segment = make(Writer::creator);
  segment.data()[0] = std::byte{1};
  EXPECT_FALSE(segment.reserve(kSize + 1));
  EXPECT_FALSE(segment.reserve(~std::size_t{0}));
  EXPECT_EQ(backed_bytes(segment), kReserved);
  EXPECT_EQ(segment.data()[0], std::byte{1});
}

TEST(Segment, OfMoreThanThereIsFailsWithTheByteCounts) {
  const std::size_t wanted = std::size_t{1} << 60;
  EXPECT_LT(available_memory(), wanted);
  EXPECT_GT(available_memory(), 0u);
  const auto segment =
      Segment::create({.name = "segment_test:huge", .size = wanted, .reserved = wanted});
  ASSERT_FALSE(segment);
  EXPECT_EQ(segment.error().code(), "unavailable");
  const std::string message = segment.error().what();
  EXPECT_THAT(message, AllOf(HasSubstr("segment_test:huge"),
                             HasSubstr("needs " + std::to_string(wanted) + " bytes"),
                             HasSubstr("arena_bytes")));
  // How much there is changes while we look: two readings differ by less than a factor of two.
  const auto only = message.find("only ");
  ASSERT_NE(only, std::string::npos) << message;
  const double said = std::stod(message.substr(only + 5));
  const auto available = static_cast<double>(available_memory());
  EXPECT_GT(said, available / 2);
  EXPECT_LT(said, available * 2);
  EXPECT_EQ(traces_of("segment_test:huge"), 0u);
}

TEST(Segment, SaysWhatTheSystemRefused) {
  const FileSizeLimit limit(kSize / 2);
  const auto segment = Segment::create({.name = "segment_test:refused", .size = kSize});
  ASSERT_FALSE(segment);
  EXPECT_EQ(segment.error().code(), "unavailable");
  EXPECT_THAT(segment.error().what(),
              AllOf(HasSubstr("segment_test:refused"), HasSubstr(std::strerror(EFBIG))));
  EXPECT_EQ(traces_of("segment_test:refused"), 0u);
}

TEST(Segment, PrefaultsWithoutChangingAnything) {
  Segment segment = make(Writer::creator);
  segment.data()[100] = std::byte{9};
  segment.prefault(kReserved, Access::read_write);
  segment.prefault(10 * kSize, Access::read_only);  // no further than it is long
  EXPECT_EQ(segment.data()[100], std::byte{9});
  EXPECT_EQ(segment.data()[101], std::byte{0});
}

// ---- life

TEST(Segment, LeavesNothingBehind) {
  const std::string name = "segment_test:gone";
  {
    const Segment segment = make(Writer::creator, name);
    const Segment attached =
        std::move(Segment::attach(duplicate(segment), Access::read_only)).value();
    EXPECT_EQ(traces_of(name), 4u) << "two descriptors, two mappings";
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      EXPECT_EQ(entry.path().string().find("segment_test"), std::string::npos) << entry.path();
    }
  }
  EXPECT_EQ(traces_of(name), 0u);
}

TEST(Segment, OutlivesItsDescriptor) {
  Segment segment = make(Writer::creator, "segment_test:closed");
  segment.close_fd();
  EXPECT_EQ(segment.fd(), -1);
  segment.data()[kReserved - 1] = std::byte{3};
  EXPECT_EQ(traces_of("segment_test:closed"), 1u) << "the mapping";
}

TEST(Segment, MovesWithoutMovingItsBytes) {
  Segment first = make(Writer::creator, "segment_test:moved");
  std::byte* const data = first.data();
  data[0] = std::byte{1};
  Segment second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.size(), kSize);
  Segment third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.data()[0], std::byte{1});
  EXPECT_EQ(traces_of("segment_test:moved"), 2u);
}

TEST(Segment, IsNeitherForkedNorDumped) {
  const std::string name = "segment_test:private";
  const Segment segment = make(Writer::creator, name);
  const Segment attached =
      std::move(Segment::attach(duplicate(segment), Access::read_only)).value();
  for (const Segment* one : {&segment, &attached}) {
    EXPECT_THAT(mapping_at(one->data()).flags, AllOf(HasSubstr(" dc "), HasSubstr(" dd ")));
  }
  tests::Child child([&] {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.find(name) != std::string::npos) return 1;
    }
    return 0;
  });
  EXPECT_EQ(child.join(), 0) << "a forked child holds the mapping";
}

TEST(Segment, DescriptorsCloseOnExec) {
  const Segment segment = make(Writer::creator);
  EXPECT_EQ(::fcntl(segment.fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

// ---- attaching, and memory of others

TEST(Segment, DoesNotAttachToWhatIsNone) {
  const auto nothing = Segment::attach(FileDescriptor(), Access::read_only);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code(), "invalid_argument");

  const FileDescriptor empty(::memfd_create("segment_test:empty", MFD_CLOEXEC));
  EXPECT_FALSE(Segment::attach(FileDescriptor(::dup(empty.get())), Access::read_only));

  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  const FileDescriptor write_end(pipe[1]);
  EXPECT_FALSE(Segment::attach(FileDescriptor(pipe[0]), Access::read_only));
}

TEST(Segment, OverMemoryOfSomebodyElseLeavesItToThem) {
  std::vector<std::byte> memory(kReserved);
  {
    Segment segment = Segment::over(memory);
    EXPECT_EQ(segment.data(), memory.data());
    EXPECT_EQ(segment.size(), kReserved);
    EXPECT_EQ(segment.fd(), -1);
    EXPECT_TRUE(segment.reserve(kReserved));
    EXPECT_FALSE(segment.reserve(kReserved + 1));
    segment.data()[0] = std::byte{1};
  }
  EXPECT_EQ(memory[0], std::byte{1});
}

}  // namespace
}  // namespace forge::shm
