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

#include "replicas/answer_memory.h"
#include "replicas/flight.h"
#include "shm/control_file.h"
#include "shm/doorbell.h"
#include "shm/ring.h"
#include "shm/segment.h"

namespace forge::replicas {

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

  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel() { answers_->close(); }

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
  void flush_releases() { answers_->send(); }

  /// Wakes the worker if it sleeps. Call after push(), best without the lock.
  void wake_worker();

  // ---- polling
  bool maybe_ready() const { return responses_.maybe_ready(); }
  /// [lock] Copies the next response out; false when there is none. Sets violation() on nonsense,
  /// after which nothing more is read. A worker that starves is given room meanwhile.
  bool pop(shm::ResponseSlot& out);
  /// [lock] What the worker wrote that no worker would write; nullptr while all is well.
  const char* violation() const { return violation_; }
  /// [lock] The same, found by who read it.
  void distrust(const char* why) { violation_ = why; }
  std::shared_ptr<AnswerMemory> answers() const { return answers_; }
  /// Nobody will take answers away: a worker that finds no room for one says so instead of waiting.
  void leave_answers_alone();

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
  bool feed(std::uint64_t wanted);
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
  std::uint64_t outstanding_ = 0;  // pushed and not answered
  std::uint64_t starved_ = 0;      // how often the worker has said that it starves
  std::uint64_t starved_now_ = 0;  // of that, since its last answer
  const char* violation_ = nullptr;
};

}  // namespace forge::replicas
