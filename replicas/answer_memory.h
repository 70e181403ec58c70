// Answer memory, seen from the controller: the response file of one worker incarnation, the blocks of
// it that are on loan, and the way of released ones back to the worker.
//
// A block is lent when its answer is stored, and goes back when the last reader drops it. While the
// worker finds no room for an answer (it *starves*), what is released goes back at once instead of
// with the next request, and answers that nobody has fetched yet are copied out. What has been
// fetched stays where it is: its readers have its address.
#pragma once

#include <forge/tensor.h>

#include <atomic>
#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "shm/control_file.h"
#include "shm/doorbell.h"
#include "shm/return_bin.h"
#include "shm/ring.h"
#include "shm/segment.h"

namespace forge::replicas {

class AnswerMemory;

/// One answer block on loan from a worker; goes back when the last user drops it, or at once if it
/// is copied out.
class AnswerBlock : public boost::intrusive::list_base_hook<> {
 public:
  AnswerBlock(std::shared_ptr<AnswerMemory> memory, std::uint64_t offset, std::uint64_t size,
              bool copy);
  AnswerBlock(const AnswerBlock&) = delete;
  AnswerBlock& operator=(const AnswerBlock&) = delete;
  ~AnswerBlock();

  /// From now on it may be copied out, until fetch(). `head_size`: bytes of its encoded head.
  void lend(std::size_t head_size);
  /// Somebody is going to read it: from now on it stays where it is. Call it before bytes(),
  /// memory() and moved(), if it was lent.
  void fetch();

  std::span<const std::byte> bytes() const { return bytes_; }
  /// Null if the block was copied out.
  const AnswerMemory* memory() const { return moved_out_ ? nullptr : memory_.get(); }
  /// The copy of what the answer referred to elsewhere in answer memory, at that offset; null if
  /// there is none.
  const std::byte* moved(std::uint64_t offset, std::uint64_t size) const;

 private:
  friend class AnswerMemory;
  enum class State : std::uint8_t { kept, lent, moving, moved };
  struct Piece {
    std::uint64_t offset;
    Tensor bytes;
  };

  std::uint64_t move_out();  // under the memory's lock
  void copy_pieces();

  std::shared_ptr<AnswerMemory> memory_;  // null: copied out from the beginning
  std::uint64_t offset_;
  std::span<const std::byte> bytes_;
  std::vector<std::byte> copy_;
  std::vector<Piece> pieces_;
  std::size_t head_size_ = 0;
  std::atomic<State> state_{State::kept};
  bool moved_out_ = false;
};

/// The response file of one incarnation. Answers that users hold keep it alive, past the worker's
/// death and the service's shutdown. Any thread, unless it says otherwise.
class AnswerMemory {
 public:
  /// The rings and words through which released blocks reach the worker.
  struct WayHome {
    std::uint64_t* slots;
    shm::RingIndex& tail;
    const shm::RingIndex& head;
    const std::atomic<std::uint32_t>& parked;
    shm::Word& bell;
  };

  explicit AnswerMemory(shm::Segment segment) : segment_(std::move(segment)) {}
  const std::byte* data() const { return segment_.data(); }
  std::size_t size() const { return segment_.size(); }
  int fd() const { return segment_.fd(); }
  void close_fd() { segment_.close_fd(); }

  /// True if [offset, offset + length) lies in the answer memory. Offsets come from a worker:
  /// nothing is believed.
  bool contains(std::uint64_t offset, std::uint64_t length) const {
    return offset >= shm::kAnswersOffset && offset <= size() && length <= size() - offset;
  }

  /// Blocks nobody reads any more; the next push takes them to the worker.
  shm::ReturnBin& released() { return released_; }
  /// Nobody reads the block any more.
  void release(std::uint64_t offset) {
    released_.put(offset);
    // The bin's lock orders this against make_room(): either that finds the offset, or we see that
    // the worker starves.
    if (starving_.load(std::memory_order_relaxed)) send_now();
  }

  /// From here on released blocks go this way; until close(), which the owner of the rings calls.
  void open(const WayHome& way);
  void close();
  /// Takes what has been released to the worker, as much as fits. Nearly free if there is nothing.
  void send();

  /// The worker finds no room for an answer of that size: copies out answers that nobody has fetched,
  /// oldest first, until as many bytes are free. False: there is nothing that could be freed. From
  /// now on releases are sent at once.
  bool make_room(std::uint64_t wanted);
  /// The worker goes on.
  void fed() { starving_.store(false, std::memory_order_relaxed); }

 private:
  friend class AnswerBlock;
  using Lent = boost::intrusive::list<AnswerBlock, boost::intrusive::constant_time_size<false>>;

  bool push_all();  // under mutex_
  void send_now();

  shm::Segment segment_;
  shm::ReturnBin released_;
  std::atomic<bool> starving_{false};
  std::atomic<bool> unsent_any_{false};
  std::mutex mutex_;  // guards all that follows, and what moves of blocks in lent_; a leaf
  std::optional<shm::RingProducer<std::uint64_t>> ring_;
  std::optional<WayHome> way_;
  std::vector<std::uint64_t> unsent_;
  Lent lent_;
};

}  // namespace forge::replicas
