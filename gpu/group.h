// Group: collectives between the ranks of one replica, through shared memory.
//
// Every rank has one file that it writes alone; the others map it read-only. A collective is one or
// more *steps*. In each, every rank writes what it is doing and its chunk into its own file,
// publishes the step, waits until all have published theirs, compares what they are doing, and
// reads their chunks.
//
// Invariants
//   G1  A rank publishes step s only after it has read all it needs of step s - 1 from all ranks.
//   G2  So a rank that saw step s - 1 of all may overwrite its step s - 2: two slots are enough.
//   G3  Before its first step in a call, a rank waits until all ranks have entered that call: then
//       nobody reads anything older, however the call before ended.
//   G4  All ranks compare the same descriptions, so all of them find the same mismatch in the same
//       step, and go on from the same step.
//   G5  What another rank writes is input: positions and descriptions are compared, never used as
//       sizes or offsets.
#pragma once

#include <forge/error.h>
#include <forge/group.h>
#include <forge/result.h>
#include <forge/tensor.h>
#include <forge/wait.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "gpu/group_file.h"
#include "shm/doorbell.h"
#include "shm/segment.h"

namespace forge::gpu {

struct GroupSpec {
  int rank = 0;
  /// One per rank, all of one size, zeroed before the first rank came: our own mapped read_write,
  /// the others read_only.
  std::vector<shm::Segment> files;
  std::uint64_t incarnation = 0;  ///< of the replica; files of another one are refused
  /// The longest a step waits for the other ranks.
  std::chrono::nanoseconds timeout = std::chrono::seconds(60);
  Wait wait = Wait::adaptive;
  /// True once a rank is known to be dead. Asked by the waiting rank every few milliseconds, and
  /// often while it spins.
  std::function<bool()> lost = {};
};

/// One thread at a time, but abort() from any. All ranks must call the same collectives with the
/// same sizes in the same order. Collectives throw:
///   InvalidArgument   the ranks' calls differ (on all of them), an argument is wrong, a rank has
///                     returned from the call or gone on to another, or a file is not what a rank of
///                     ours writes
///   Unavailable       a rank has failed in this call
///   DeadlineExceeded  other ranks did not come in time; says which
///   WorkerLost        a rank is dead or the group was aborted; from now on always
/// After DeadlineExceeded, or when a rank has left the call, all collectives fail until begin(). A rank
/// that came last may have finished what others gave up. Payloads of a collective that threw hold
/// anything.
class Group final : public forge::Group {
 public:
  /// Errors: InvalidArgument if the files are not usable.
  static Result<std::unique_ptr<Group>> create(GroupSpec spec);

  /// Of a rank that has no memory for its group: the others must not wait for it in this call.
  static void decline(shm::Segment& file, std::uint64_t call);

  /// A rank has ended a call, with or without an error, and takes no further step in it: those who
  /// wait for one fail at once. `files` of all ranks, whether it has made its group or not.
  /// `let_down`: because of another rank.
  static void end(std::span<shm::Segment> files, int rank, std::uint64_t call, ErrorCode outcome,
                  bool let_down = false);

  /// Bytes of a rank's file whose collectives go through in chunks of `chunk` bytes.
  static constexpr std::size_t file_size(std::size_t chunk) {
    return kGroupDataOffset + kGroupSlots * shm::page_up(chunk);
  }

  int rank() const override { return rank_; }
  int procs() const override { return static_cast<int>(files_.size()); }

  /// Enters a call of the actor: forgets a failure in the one before, and tells ranks that still
  /// wait there not to. Numbers only grow and are the same in all ranks. A group starts in call 0.
  void begin(std::uint64_t call);

  /// The rank has ended the call that it is in.
  void end(ErrorCode outcome) { end(files_, rank_, call_ - 1, outcome, let_down_); }
  /// A collective of this call has failed because of what another rank did: its own error, if it has
  /// one, comes first.
  bool let_down() const { return let_down_; }
  /// What fails next is such a collective, that is carried out elsewhere.
  void blame_others() { let_down_ = true; }

  /// Ends all waits in all ranks with WorkerLost.
  void abort() noexcept;

  /// Between calls that all ranks take part in: collectives throw `why` until begin().
  void leave(Status why);

  void barrier() override;
  void broadcast(std::span<std::byte> bytes, int root) override;
  void broadcast(Tensor& tensor, int root) override;
  void all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) override;
  void all_reduce(Tensor& tensor, Reduction reduction) override;
  using forge::Group::all_reduce;
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override;
  Tensor all_gather(const Tensor& tensor) override;

  // Tensors that are known by where they lie, and what else carries collectives elsewhere.

  void broadcast(DType dtype, std::span<std::byte> bytes, int root);
  void all_gather(DType dtype, std::span<const std::byte> mine, std::span<std::byte> all);
  /// Finds out, in one step, that all ranks are about to carry out `call` elsewhere, and what each
  /// has to say beforehand: `mine` of rank r comes to all[r * mine.size()].
  void agree(const GroupCall& call, std::span<const std::byte> mine, std::span<std::byte> all);
  /// Throws `why`, which is wrong with a call of this rank alone: the others learn that they differ.
  [[noreturn]] void refuse(const Status& why);
  /// Throws `why`, and leaves the call of the actor: a collective that is carried out elsewhere has
  /// failed. WorkerLost is for good.
  [[noreturn]] void fail(Status why);
  /// Why the others will not come any more, for who waits for them elsewhere.
  Status trouble() const;

 private:
  enum class Progress { waiting, arrived, left, corrupt };
  struct Chunk {
    std::size_t offset;
    std::size_t size;
  };

  explicit Group(GroupSpec spec);

  const GroupFile& file(int rank) const;
  GroupFile& mine();
  std::span<std::byte> chunk_of(int rank, std::uint64_t step) const;

  void enter(const GroupCall& call);
  template <class Put, class Take>
  void step(const GroupCall& call, const Chunk& chunk, Put put, Take take);
  template <class Put, class Take>
  void run(GroupCall call, Put put, Take take);
  void publish();
  void wake();
  void await(const GroupCall& call, std::uint64_t step);
  Progress look(int rank, std::uint64_t step) const;
  bool all_arrived(std::uint64_t step) const;
  Status who_left(const GroupCall& call, std::uint64_t step) const;
  Status how_left(int rank, const GroupCall& call) const;
  [[noreturn]] void fail_by_others(Status why);
  void sleep(int rank, std::uint64_t step, shm::SteadyTime until);
  void check_headers();
  void check_calls();
  bool refused_elsewhere(std::size_t slot) const;
  Status missing(const GroupCall& call, std::uint64_t step) const;

  int rank_;
  std::vector<shm::Segment> files_;
  std::uint64_t incarnation_;
  std::chrono::nanoseconds timeout_;
  Wait wait_;
  std::function<bool()> lost_;
  std::size_t chunk_size_;
  std::uint64_t call_ = 1;   // as in our file: the caller's number + 1
  std::uint64_t step_ = 0;   // published in this call
  bool entered_ = false;     // all ranks have been seen in this call
  bool acquainted_ = false;  // the others' headers have been checked
  bool let_down_ = false;    // in this call
  Status broken_;            // why collectives fail for now, or for good
};

}  // namespace forge::gpu
