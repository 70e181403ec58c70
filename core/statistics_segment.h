// The statistics that a controller shows to those who watch it: one process writes JSON text, any number
// read it without telling the writer.
//
// Two buffers take turns. Snapshot n lies in buffer n % 2, so that whoever reads n is disturbed by
// n + 2 only, which is half a second away; he sees it by the count of snapshots, which is looked at before
// and after.
#pragma once

#include <forge/result.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "shm/segment.h"

namespace forge::core {

struct StatisticsHeader {
  static constexpr std::uint64_t kMagic = 0x7374617473666f72;
  static constexpr std::uint32_t kVersion = 1;

  std::uint64_t magic;
  std::uint32_t version;
  std::int32_t pid;         ///< of the controller
  std::uint64_t capacity;   ///< bytes of each buffer, a multiple of 8
  std::uint32_t period_ms;  ///< a snapshot is written this often while somebody watches
  std::uint32_t unused;
  std::atomic<std::uint64_t> snapshots;   ///< written so far
  std::atomic<std::uint64_t> lengths[2];  ///< of the text in each buffer
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// Where the first buffer begins.
inline constexpr std::size_t kStatisticsBuffers = 4096;
static_assert(sizeof(StatisticsHeader) <= kStatisticsBuffers);

class StatisticsWriter {
 public:
  /// Room for texts of `capacity` bytes. Error: Unavailable.
  static Result<StatisticsWriter> create(std::size_t capacity, std::uint32_t period_ms);
  /// False if the text does not fit.
  bool write(std::string_view text);
  int fd() const { return segment_.fd(); }

 private:
  explicit StatisticsWriter(shm::Segment segment) : segment_(std::move(segment)) {}
  shm::Segment segment_;
};

class StatisticsReader {
 public:
  /// Takes what a controller handed over, and trusts nothing of it. Errors: InvalidArgument if it is no
  /// such segment, or one that could shrink under our hands; Unavailable.
  static Result<StatisticsReader> open(shm::FileDescriptor fd);
  /// The newest text. Errors: Unavailable while there is none, InvalidArgument if what is there is torn.
  Result<std::string> read() const;
  std::uint64_t snapshots() const { return header().snapshots.load(std::memory_order_acquire); }
  int pid() const { return header().pid; }
  std::uint32_t period_ms() const { return header().period_ms; }

 private:
  StatisticsReader(shm::Segment segment, std::size_t capacity)
      : segment_(std::move(segment)), capacity_(capacity) {}
  const StatisticsHeader& header() const {
    return *reinterpret_cast<const StatisticsHeader*>(segment_.data());
  }
  shm::Segment segment_;
  std::size_t capacity_;  // as it was when it was checked
};

}  // namespace forge::core
