// Answer memory, seen from the worker that owns it: blocks for answers, tensors that are born
// there, and what the controller gives back.
#pragma once

#include <forge/tensor.h>
#include <forge/wire.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "shm/block_pool.h"
#include "shm/control_file.h"
#include "shm/ring.h"
#include "shm/segment.h"

namespace forge::replicas {

/// The worker's thread calls everything; tensors may be dropped on any thread of the actor.
class AnswerPool {
 public:
  AnswerPool(shm::Segment& file, const std::uint64_t* releases, const shm::RingIndex& tail,
             shm::RingIndex& head);

  /// Puts what the writer holds into the slot, or into a block the slot refers to; tensors of this
  /// memory that it refers to are frozen. Throws PayloadTooLarge, Backpressure or Unavailable, and
  /// then nothing has changed.
  void write(detail::Writer& answer, shm::ResponseSlot& slot);

  /// Bytes of the block that write() will need; 0: none.
  static std::size_t needed(detail::Writer& answer);
  /// Keeps a block of that size for the next write() or allocate_here(). False: there is no room now.
  bool hold(std::size_t size);
  /// Could there ever be room for a block of that size?
  bool could_hold(std::size_t size) const;

  /// A tensor in answer memory; in plain memory if there is no room.
  Tensor allocate(DType dtype, std::span<const std::int64_t> shape);
  /// The same, but throws like write() if there is no room.
  Tensor allocate_here(DType dtype, std::span<const std::int64_t> shape);

  /// Takes back what write() has put into a slot that was not published.
  void discard(const shm::ResponseSlot& slot);

  /// Calls `pin` with all memory that is in use, each part once, and with more as it grows.
  void pin_with(std::function<void(std::span<const std::byte>)> pin);

  /// Takes back what the controller has released. True if there was something.
  bool collect();

  /// Identity of this memory for Writer and tensors.
  const void* home() const { return this; }

 private:
  struct Storage;
  struct Held {
    std::uint64_t offset;
    std::size_t size;
  };
  std::optional<std::uint64_t> take(std::size_t size);
  bool reserve(std::size_t bytes);
  void give_back(std::uint64_t offset);
  [[noreturn]] void throw_no_room(std::size_t size) const;
  std::size_t capacity() const { return file_.size() - shm::kAnswersOffset; }

  shm::Segment& file_;
  shm::RingConsumer<std::uint64_t> releases_;
  std::mutex mutex_;  // guards pool_: tensors die on any thread
  std::optional<shm::BlockPool>
      pool_;              // made when first needed: many actors never answer more than fits a slot
  bool refused_ = false;  // the system had no memory, when it was last asked
  std::function<void(std::span<const std::byte>)> pin_;  // under mutex_, as is the next
  std::size_t reserved_ = 0;
  std::optional<Held> held_;  // taken, and not used yet
  std::unordered_map<std::uint64_t, std::vector<Tensor>>
      residents_;  // tensors that answers on loan refer to, by block
};

}  // namespace forge::replicas
