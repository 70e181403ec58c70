// Outbox: a worker's answers on their way into the response ring. Staged one by one, published
// together.
#pragma once

#include <forge/error.h>
#include <forge/wire.h>

#include "replicas/answer_pool.h"
#include "shm/control_file.h"
#include "shm/prefetch.h"
#include "shm/ring.h"

namespace forge::replicas {

class Outbox {
 public:
  Outbox(shm::RingProducer<shm::ResponseSlot>& ring, AnswerPool& answers)
      : ring_(ring), answers_(answers) {}

  /// The next slot, staged, as the answer to this request. The controller has at most as many calls
  /// out as the ring has slots.
  shm::ResponseSlot& claim(const shm::RequestSlot& request);
  /// A slot outside of the ring as the answer to this request; `send` moves it there.
  static shm::ResponseSlot prepare(const shm::RequestSlot& request);
  void send(const shm::ResponseSlot& slot) { next() = slot; }

  /// What the writer holds, as the slot's value. What does not fit becomes an error.
  void value(shm::ResponseSlot& slot, detail::Writer& out);
  /// What the writer holds, as the slot's error of this code.
  void error(shm::ResponseSlot& slot, detail::Writer& out, ErrorCode code);
  void error(shm::ResponseSlot& slot, detail::Writer& out, const Error& error);

  /// Tells the controller, behind everything that was claimed, that an answer of that size finds no
  /// room; all of it is published. False: the ring has no place for it now.
  bool starve(std::size_t size);

  /// Publishes everything that was claimed.
  void commit() { ring_.commit(); }
  /// Afterwards: the next answer will be written soon.
  void prefetch() { shm::prefetch_for_write(ring_.next_slot(), sizeof(shm::ResponseSlot)); }

  AnswerPool& answers() { return answers_; }

 private:
  shm::ResponseSlot& next();

  shm::RingProducer<shm::ResponseSlot>& ring_;
  AnswerPool& answers_;
};

}  // namespace forge::replicas
