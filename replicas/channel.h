// A channel: the controller's end of one worker incarnation. Two control files, three rings, one
// process; and the file for what it tells the other ranks of its replica, if there are any.
//
// Thread safety: everything marked [lock] needs the service's lock; the rest may be called from any
// thread.
#pragma once

#include <forge/result.h>
#include <forge/wait.h>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "replicas/flight.h"
#include "shm/control_file.h"
#include "shm/doorbell.h"
#include "shm/return_bin.h"
#include "shm/ring.h"
#include "shm/segment.h"

namespace forge::replicas {

/// The response file of one incarnation, and the way released answer blocks take home. Answers that
/// users hold keep it alive, past the worker's death and the service's shutdown.
class AnswerMemory {
 public:
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

 private:
  shm::Segment segment_;
  shm::ReturnBin released_;
};

/// One answer block on loan from a worker; goes back when the last user drops it, or at once if it
/// is copied out.
class AnswerBlock {
 public:
  AnswerBlock(std::shared_ptr<AnswerMemory> memory, std::uint64_t offset, std::uint64_t size,
              bool copy)
      : memory_(std::move(memory)), offset_(offset), bytes_(memory_->data() + offset, size) {
    if (!copy) return;
    copy_.assign(bytes_.begin(), bytes_.end());
    bytes_ = copy_;
    std::exchange(memory_, nullptr)->released().put(offset_);
  }
  AnswerBlock(const AnswerBlock&) = delete;
  AnswerBlock& operator=(const AnswerBlock&) = delete;
  ~AnswerBlock() {
    if (memory_) memory_->released().put(offset_);
  }
  std::span<const std::byte> bytes() const { return bytes_; }
  /// Null if the block was copied out.
  const AnswerMemory* memory() const { return memory_.get(); }

 private:
  std::shared_ptr<AnswerMemory> memory_;
  std::uint64_t offset_;
  std::span<const std::byte> bytes_;
  std::vector<std::byte> copy_;
};

struct ChannelSpec {
  std::string name;  ///< service/replica.rank
  std::uint64_t incarnation = 1;
  std::uint32_t replica = 0;
  std::uint32_t rank = 0;
  std::uint32_t procs = 1;
  Wait wait = Wait::adaptive;
  int cpu = -1;                  ///< core to pin it to; -1: none
  std::uint32_t calls = 1;       ///< that may run at once, where endpoints are coroutines
  std::size_t answer_bytes = 0;  ///< size of the answer memory; reserved by the worker as it grows
};

class Channel {
 public:
  static Result<std::shared_ptr<Channel>> create(const ChannelSpec& spec);

  /// Over files that exist: create() uses it, and tests whose worker is a thread.
  static std::shared_ptr<Channel> over(shm::Segment requests, shm::Segment responses,
                                       const ChannelSpec& spec);

  int request_fd() const { return request_segment_.fd(); }
  int response_fd() const { return answers_->fd(); }
  /// -1 for the only rank of a replica.
  int group_fd() const { return group_file_.fd(); }
  /// After all workers of the replica have been started: they have their own copies.
  void close_fds();

  // ---- pushing [lock]
  /// Whose life the worker lives from its next call on. Precondition: it has no call.
  void assign(std::uint32_t replica, std::uint64_t incarnation);
  bool has_room(std::uint64_t slots = 1) {
    return outstanding_ + slots <= shm::kWindow && requests_.room(slots) >= slots;
  }
  /// Puts a descriptor into the ring and returns its position; the worker sees it after commit().
  /// Precondition: has_room().
  std::uint64_t stage(const shm::RequestSlot& slot);
  void commit();
  std::uint64_t push(const shm::RequestSlot& slot) {
    const std::uint64_t position = stage(slot);
    commit();
    return position;
  }
  /// Takes waiting releases to the worker, as many as fit.
  void flush_releases();

  /// Wakes the worker if it sleeps. Call after push(), best without the lock.
  void wake_worker();

  // ---- polling
  bool maybe_ready() const { return responses_.maybe_ready(); }
  /// [lock] Copies the next response out; false when there is none. Sets violation() on nonsense,
  /// after which nothing more is read.
  bool pop(shm::ResponseSlot& out);
  /// [lock] What the worker wrote that no worker would write; nullptr while all is well.
  const char* violation() const { return violation_; }
  /// [lock] The same, found by who read it.
  void distrust(const char* why) { violation_ = why; }
  std::shared_ptr<AnswerMemory> answers() const { return answers_; }

  shm::Word& caller_bell() { return response_->caller_bell.word; }
  shm::Word& engine_bell() { return response_->engine_bell.word; }

  /// Changes with everything the worker begins.
  std::uint64_t heartbeat() const { return response_->heartbeat.load(std::memory_order_relaxed); }

  /// Of the worker's device, as it last said: a worker's word.
  const shm::DeviceMemory& device_memory() const { return response_->device_memory; }

  // ---- after the worker's death [lock]
  /// Requests below this position were started.
  std::uint64_t started() const;
  std::uint64_t outstanding() const { return outstanding_; }
  shm::ExitReason exit_reason() const;
  /// What it did last.
  Flight flight() const { return read_flight(*response_); }

 private:
  Channel(shm::Segment request_segment, std::shared_ptr<AnswerMemory> answers);
  bool reject(const char* why) {
    violation_ = why;
    return false;
  }

  shm::Segment request_segment_;
  std::shared_ptr<AnswerMemory> answers_;
  shm::Segment group_file_;      // until it has been handed down; nothing of it is ours
  shm::RequestFile* request_;    // ours
  shm::ResponseFile* response_;  // the worker's; mapped read-only
  shm::RingProducer<shm::RequestSlot> requests_;
  shm::RingConsumer<shm::ResponseSlot> responses_;
  shm::RingProducer<std::uint64_t> releases_;
  std::uint64_t outstanding_ = 0;  // pushed and not answered
  std::vector<std::uint64_t> unsent_releases_;
  const char* violation_ = nullptr;
};

}  // namespace forge::replicas
