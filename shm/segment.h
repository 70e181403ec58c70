// A segment: nameless shared memory (memfd), mapped by Boost.Interprocess.
//
// The process that creates a segment reserves its memory at once, so that touching it later can
// never raise SIGBUS, and seals it so that no other process can change its size or, for `writer =
// creator`, ever map it writable. Nothing of it has a name in any file system.
#pragma once

#include <forge/result.h>
#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "shm/file_descriptor.h"

namespace forge::shm {

enum class Access { read_only, read_write };

/// Who may write a segment after it has been sealed.
enum class Writer {
  creator,  ///< only through the mapping the creator has; later writable mappings are refused
  peer,     ///< the process it is handed to; the creator maps it read-only
  /// The creator, and whoever it is handed to may map it writable, too: a device that cannot register
  /// read-only pages. Nothing but good manners keeps them from writing.
  creator_unsealed,
};

struct SegmentSpec {
  std::string name;      ///< shown in /proc/*/maps, for people
  std::size_t size = 0;  ///< bytes, fixed for life
  std::size_t reserved =
      0;  ///< bytes from the start that are backed by memory now; the rest by reserve()
  Writer writer = Writer::creator;
};

class Segment {
 public:
  Segment() = default;

  /// Makes, reserves, maps and seals a segment. Errors: Unavailable with byte counts when memory is
  /// short, and what the system said otherwise.
  static Result<Segment> create(const SegmentSpec& spec);

  /// Maps a segment another process made. `size` 0 takes the file's.
  static Result<Segment> attach(FileDescriptor fd, Access access);

  /// Memory of somebody else who outlives the segment: both sides in one address space, so that a
  /// thread sanitizer sees all of it.
  static Segment over(std::span<std::byte> memory) { return Segment(memory); }

  std::byte* data() const { return memory_.data(); }
  std::size_t size() const { return memory_.size(); }
  int fd() const { return fd_.get(); }

  /// Backs bytes [0, bytes) with memory. False if there is none left; then nothing has changed.
  bool reserve(std::size_t bytes);

  /// Touches [0, bytes) so that first use takes no page fault.
  void prefault(std::size_t bytes, Access access);

  /// No write through this mapping from here on. Error: Unavailable with what the system said.
  Status protect();

  /// Gives the descriptor back early; the mapping stays.
  void close_fd() { fd_ = FileDescriptor(); }

 private:
  explicit Segment(std::span<std::byte> memory) : memory_(memory) {}
  Segment(FileDescriptor fd, boost::interprocess::mapped_region region)
      : fd_(std::move(fd)),
        region_(std::move(region)),
        memory_(static_cast<std::byte*>(region_.get_address()), region_.get_size()) {}
  static Result<Segment> map(FileDescriptor fd, Access access, std::size_t size);

  FileDescriptor fd_;
  boost::interprocess::mapped_region region_;
  std::span<std::byte> memory_;
};

/// Bytes of memory this process may still take: the smaller of what the machine and its memory
/// limit (cgroup) have.
std::size_t available_memory();

}  // namespace forge::shm
