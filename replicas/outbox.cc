#include "replicas/outbox.h"

#include <forge/payload.h>

#include <cstdlib>

#include "replicas/actor_host.h"
#include "shm/failpoint.h"

namespace forge::replicas {
namespace {

/// So few that they fit into the slot.
Status in_few_words(ErrorCode code) {
  switch (code) {
    case ErrorCode::backpressure:
      return {code, "its answer memory is full of answers in use; drop them or raise arena_bytes"};
    case ErrorCode::unavailable:
      return {code, "the worker finds no shared memory left for its answers; free some"};
    default:
      return {ErrorCode::backpressure,
              "the endpoint failed, and the worker's answer memory is too full to say how"};
  }
}

void address(shm::ResponseSlot& slot, const shm::RequestSlot& request) {
  slot.id = request.id;
  slot.attempt = request.attempt;
  slot.kind = shm::ResponseKind::value;
  slot.flags = 0;
  slot.block = 0;
  slot.head_size = 0;
}

}  // namespace

shm::ResponseSlot& Outbox::next() {
  shm::ResponseSlot* slot = ring_.try_claim();
  if (slot == nullptr) std::abort();
  ring_.stage();
  return *slot;
}

shm::ResponseSlot& Outbox::claim(const shm::RequestSlot& request) {
  shm::ResponseSlot& slot = next();
  address(slot, request);
  return slot;
}

shm::ResponseSlot Outbox::prepare(const shm::RequestSlot& request) {
  shm::ResponseSlot slot{};
  address(slot, request);
  return slot;
}

bool Outbox::starve(std::size_t size) {
  ring_.commit();
  if (ring_.room(2) < 2) return false;  // one is for the answer
  shm::ResponseSlot& slot = next();
  slot = {};
  slot.kind = shm::ResponseKind::starved;
  slot.block_size = size;
  ring_.commit();
  return true;
}

void Outbox::value(shm::ResponseSlot& slot, detail::Writer& out) {
  try {
    FORGE_FAILPOINT(answering);
    answers_.write(out, slot);
  } catch (const Error& error) {
    this->error(slot, out, error);
  } catch (...) {  // the slot has been claimed: nobody else would write an error into it
    this->error(slot, out, *make_error(current_exception_status("the answer")));
  }
}

void Outbox::error(shm::ResponseSlot& slot, detail::Writer& out, const Error& error) {
  out.restart();
  detail::write_error(out, error);
  this->error(slot, out, error.error_code());
}

void Outbox::error(shm::ResponseSlot& slot, detail::Writer& out, ErrorCode code) {
  slot.kind = shm::ResponseKind::error;
  try {
    answers_.write(out, slot);
  } catch (...) {  // no memory for the error: say at least that
    out.restart();
    detail::write_error(out, *make_error(in_few_words(code)));
    answers_.write(out, slot);
  }
}

}  // namespace forge::replicas
