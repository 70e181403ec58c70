// A ring: single producer, single consumer, fixed capacity, in memory two processes share.
//
// Roles: one process owns the RingProducer, the other the RingConsumer. Being the only producer is
// an object you hold (it cannot be copied), not a rule to remember. The two 64-bit positions lie in
// *different* files: `tail` where the producer writes, `head` where the consumer writes; each side
// maps the other's file read-only.
//
// Invariants
//   R1  head <= tail <= head + capacity; both only grow; position p lies in slot p & (capacity - 1).
//   R2  Slots in [head, tail) belong to the consumer, all others to the producer.
//   R3  What the peer writes is input: a tail outside [head, head + capacity] is corrupt, not data.
//   R4  Each side keeps its own position and a cached copy of the other's in private memory, so the
//       common case touches one shared line (the technique of rigtorp's SPSCQueue).
//
// Checked as shipped by Relacy (tests/shm/ring_model.cc), which replaces std::atomic before
// including this file.
#pragma once

#ifndef FORGE_MODEL_CHECK
#include <atomic>
#endif
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace forge::shm {

/// One shared position, alone on its cache line (two, for the adjacent-line prefetcher).
struct alignas(128) RingIndex {
  std::atomic<std::uint64_t> position;
};

/// The producing end. Thread-compatible: one thread at a time.
template <typename Slot>
class RingProducer {
 public:
  RingProducer(Slot* slots, std::uint64_t capacity, RingIndex& tail, const RingIndex& head)
      : slots_(slots), capacity_(capacity), tail_(&tail), head_(&head) {}
  RingProducer(const RingProducer&) = delete;
  RingProducer& operator=(const RingProducer&) = delete;

  std::uint64_t position() const { return next_; }
  std::uint64_t capacity() const { return capacity_; }

  /// Free slots as last seen; looks at the consumer's head only when fewer than `wanted` are known
  /// to be free.
  std::uint64_t room(std::uint64_t wanted = 1) {
    if (capacity_ - (next_ - cached_head_) < wanted) {
      // Acquire pairs with the consumer's release of head: its reads of a slot happened before we
      // overwrite it.
      const std::uint64_t head = head_->position.load(std::memory_order_acquire);
      if (head <= next_ && head > cached_head_) cached_head_ = head;  // R3: ignore nonsense
    }
    return capacity_ - (next_ - cached_head_);
  }

  /// The slot to fill next, or nullptr when full. Not visible to the consumer before publish().
  Slot* try_claim() { return room() == 0 ? nullptr : &slots_[next_ & (capacity_ - 1)]; }

  /// Where the next slot will be written; only for hints to the cache.
  const Slot* next_slot() const { return &slots_[next_ & (capacity_ - 1)]; }

  /// The claimed slot is filled; the next one can be claimed. The consumer sees neither yet.
  void stage() { ++next_; }

  /// Hands all staged slots to the consumer, at once.
  void commit() {
    // Release pairs with the consumer's acquire of tail: it sees the slot as we filled it.
    tail_->position.store(next_, std::memory_order_release);
  }

  /// Hands the claimed slot to the consumer.
  void publish() {
    stage();
    commit();
  }

  bool try_push(const Slot& value) {
    Slot* slot = try_claim();
    if (slot == nullptr) return false;
    *slot = value;
    publish();
    return true;
  }

 private:
  Slot* slots_;
  std::uint64_t capacity_;
  RingIndex* tail_;         // written by us alone
  const RingIndex* head_;   // written by the consumer
  std::uint64_t next_ = 0;  // *tail_ once all is committed
  std::uint64_t cached_head_ = 0;
};

/// The consuming end. Thread-compatible: one thread at a time.
template <typename Slot>
class RingConsumer {
 public:
  RingConsumer(const Slot* slots, std::uint64_t capacity, const RingIndex& tail, RingIndex& head)
      : slots_(slots), capacity_(capacity), tail_(&tail), head_(&head) {}
  RingConsumer(const RingConsumer&) = delete;
  RingConsumer& operator=(const RingConsumer&) = delete;

  std::uint64_t position() const { return next_; }

  /// True if a slot is ready. Cheap enough to call in a spin loop.
  bool ready() { return cached_tail_ != next_ || refresh(); }

  /// ready() for a thread that does not own this end: a hint, safe from anywhere.
  bool maybe_ready() const {
    // Relaxed: only a reason to go and look properly.
    return tail_->position.load(std::memory_order_relaxed) !=
           head_->position.load(std::memory_order_relaxed);
  }

  /// The next slot, or nullptr when empty (or corrupt). Stays valid and unchanged until pop().
  const Slot* front() { return ready() ? &slots_[next_ & (capacity_ - 1)] : nullptr; }

  /// The slot `ahead` places behind the front, or nullptr if it is not there yet. Stays like front().
  const Slot* peek(std::uint64_t ahead) {
    if (cached_tail_ - next_ <= ahead && (!refresh() || cached_tail_ - next_ <= ahead))
      return nullptr;
    return &slots_[(next_ + ahead) & (capacity_ - 1)];
  }

  /// Gives the front slot, or the first `count`, back to the producer. Precondition: they were there.
  void pop(std::uint64_t count = 1) {
    next_ += count;
    // Release pairs with the producer's acquire of head: our reads of the slot are over.
    head_->position.store(next_, std::memory_order_release);
  }

  /// True once the producer's tail has left the range R1 allows; sticky.
  bool corrupt() const { return corrupt_; }

 private:
  bool refresh() {
    // Acquire pairs with the producer's release of tail.
    const std::uint64_t tail = tail_->position.load(std::memory_order_acquire);
    if (tail == next_) return false;
    if (corrupt_ || tail < next_ || tail - next_ > capacity_) {
      corrupt_ = true;
      return false;
    }
    cached_tail_ = tail;
    return true;
  }

  const Slot* slots_;
  std::uint64_t capacity_;
  const RingIndex* tail_;   // written by the producer
  RingIndex* head_;         // written by us alone
  std::uint64_t next_ = 0;  // private copy of *head_
  std::uint64_t cached_tail_ = 0;
  bool corrupt_ = false;
};

#ifndef FORGE_MODEL_CHECK
static_assert(sizeof(RingIndex) == 128 && alignof(RingIndex) == 128);
static_assert(std::is_standard_layout_v<RingIndex>);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
#endif

}  // namespace forge::shm
