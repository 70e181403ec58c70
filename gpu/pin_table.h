// PinTable: which host memory of this process is pinned, and in which pieces a device knows it.
//
// A device is given at most kLargestPin bytes at once, and refuses a copy of memory that it was
// given in two pieces, or only part of which is pinned. So every region is cut into chunks, and
// copies are cut where chunks begin and end.
#pragma once

#include <forge/result.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>

namespace forge::gpu {

using HostPiece = std::span<const std::byte>;

/// Larger registrations have failed on large machines.
inline constexpr std::size_t kLargestPin = std::size_t{64} << 30;

class PinTable {
 public:
  /// A region's place in the table, until this is dropped.
  class Claim {
   public:
    Claim(Claim&& other) noexcept
        : table_(std::move(other.table_)), memory_(std::exchange(other.memory_, {})) {}
    Claim& operator=(Claim&&) = delete;
    ~Claim();

    HostPiece memory() const { return memory_; }
    /// The first chunk of what is left of the region; empty once `rest` is.
    HostPiece next_chunk(HostPiece rest) const { return table_->first_run(rest); }

   private:
    friend class PinTable;
    Claim(std::shared_ptr<PinTable> table, HostPiece memory)
        : table_(std::move(table)), memory_(memory) {}

    std::shared_ptr<PinTable> table_;
    HostPiece memory_;
  };

  explicit PinTable(std::size_t chunk = kLargestPin) : chunk_(chunk) {}

  /// Error: InvalidArgument if the memory is empty or some of it is in the table.
  static Result<Claim> claim(const std::shared_ptr<PinTable>& table, HostPiece memory);

  /// How much of `memory`, from its first byte on, lies in one chunk, or else in none.
  HostPiece first_run(HostPiece memory) const;

  /// All of it is pinned.
  bool covers(HostPiece memory) const;

 private:
  using Regions = std::map<std::uintptr_t, std::size_t>;  // size by begin; they do not overlap

  /// The last region that begins before `end`.
  Regions::const_iterator last_before(std::uintptr_t end) const;

  std::size_t chunk_;
  Regions regions_;
};

}  // namespace forge::gpu
