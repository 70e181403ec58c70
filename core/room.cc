// Room in the arena: for the arguments of calls, and for tensors that users fill. Who has a deadline waits
// for it, in order; he polls meanwhile like anybody who waits for an answer, because answers make room.
#include <algorithm>

#include "core/engine.h"
#include "core/fork.h"
#include "core/host.h"
#include "shm/threads.h"

namespace forge::core {
namespace {

/// Copies larger than this are made without the lock.
constexpr std::size_t kCopyUnlocked = 16 * 1024;

SteadyTime deadline_of(std::optional<std::chrono::nanoseconds> timeout) {
  return timeout ? detail::from_now(*timeout) : SteadyTime::max();
}

}  // namespace

Refusal Engine::place(Lock& lock, detail::Writer& arguments, SteadyTime until, Payload*& payload) {
  const std::size_t size = arguments.block_size();
  std::uint64_t block = 0;
  Refusal refusal = take_room(lock, size, "arguments", until, block);
  if (refusal) return refusal;
  payload = &take_payload(block, size, arguments.head().size());
  counters_.copied_bytes +=
      size - std::min<std::size_t>(size, detail::align_up(payload->head, detail::kBlockAlignment));
  for (Tensor& tensor : arguments.residents()) {
    tensor.storage()->frozen.store(true, std::memory_order_relaxed);
    payload->residents.push_back(std::move(tensor));
  }
  if (size <= kCopyUnlocked) {
    arguments.write_to(arena_->at(block));
    return {};
  }
  lock.unlock();
  arguments.write_to(arena_->at(block));
  lock.lock();
  if (state_ == State::serving) return {};
  ++payload->users;
  release(*payload);
  return ended();
}

/// A block of the arena. `until` max: not waited for. The lock is given up while it waits.
Refusal Engine::take_room(Lock& lock, std::size_t size, const char* what, SteadyTime until,
                          std::uint64_t& block) {
  // What is free is for those who wait already, and who were here before.
  const auto found = room_.empty() ? arena_->allocate(size) : std::nullopt;
  if (found) {
    block = *found;
    return {};
  }
  if (size > arena_->largest()) {
    return make_error(
        {ErrorCode::payload_too_large, std::string(what) + " of " + std::to_string(size) +
                                           " bytes does not fit the arena of service '" +
                                           launch_.name + "'; raise arena_bytes (now " +
                                           std::to_string(launch_.options.arena_bytes) + ")"});
  }
  if (until == SteadyTime::max() || shm::on_own_thread())
    return no_room(ErrorCode::backpressure, what, size, "is full");
  return wait_for_room(lock, size, what, until, block);
}

Refusal Engine::no_room(ErrorCode code, const char* what, std::size_t size, const char* how) {
  return make_error({code, "the arena of service '" + launch_.name + "' " + how + " (" +
                               std::to_string(arena_->used()) + " bytes in use, " +
                               std::to_string(size) + " wanted for " + what + ", " +
                               std::to_string(room_.size()) +
                               " wait); wait for answers, drop tensors or raise arena_bytes"});
}

Refusal Engine::wait_for_room(Lock& lock, std::size_t size, const char* what, SteadyTime until,
                              std::uint64_t& block) {
  auto* const state = new RoomState();
  if (room_.empty()) {
    arena_->watch([this] {  // until nobody waits
      room_returned_.store(true, std::memory_order_relaxed);
      host_->engine_thread().wake();
    });
  }
  room_.push_back({size, state});
  serve_room();  // what came back before it was watched
  lock.unlock();
  wait(*state, until);
  lock.lock();
  if (!state->ready()) {
    std::erase_if(room_, [&](const RoomWaiter& waiter) { return waiter.state == state; });
    state->set(no_room(ErrorCode::deadline_exceeded, what, size, "was full until the deadline"));
    serve_room();  // those behind may want less
  }
  Result<std::uint64_t> outcome = state->take();
  state->abandon();
  if (!outcome) return outcome.error_ptr();
  block = *outcome;
  if (state_ == State::serving) return {};
  arena_->free(block);
  return ended();
}

Refusal Engine::ended() const {
  return make_error({ErrorCode::stopped,
                     "service '" + launch_.name + "' was shut down while a call was being made"});
}

/// Room has come, or may have: it is for who has waited longest, and for nobody else before him.
void Engine::serve_room() {
  room_returned_.store(false, std::memory_order_relaxed);
  if (room_.empty()) return;
  while (!room_.empty()) {
    const RoomWaiter first = room_.front();
    if (state_ != State::serving) {
      first.state->set(ended());
    } else if (const auto block = arena_->allocate(first.size)) {
      first.state->set(*block);
    } else {
      return;
    }
    room_.pop_front();
  }
  arena_->watch(nullptr);
}

Tensor Engine::allocate(DType dtype, const std::vector<std::int64_t>& shape,
                        std::optional<std::chrono::nanoseconds> timeout) {
  require_no_fork();
  const std::size_t bytes = detail::byte_size(dtype, shape);
  const SteadyTime until = deadline_of(timeout);
  Lock lock(mutex_);
  if (state_ != State::serving)
    throw Stopped("service '" + launch_.name + "' has been shut down; it has no arena any more");
  std::uint64_t block = 0;
  if (const Refusal refusal = take_room(lock, bytes, "a tensor", until, block)) refusal->raise();
  return arena_->tensor_at(block, dtype, shape, bytes);
}

Tensor Engine::allocate_row(std::uint16_t endpoint, DType dtype,
                            const std::vector<std::int64_t>& shape,
                            std::optional<std::chrono::nanoseconds> timeout) {
  require_no_fork();
  const std::size_t row = detail::byte_size(dtype, shape);
  std::vector<std::int64_t> whole{actor_->endpoints[endpoint].options.batch_size};
  whole.insert(whole.end(), shape.begin(), shape.end());
  if (whole.size() <= Tensor::kMaxDims && whole.front() > 1 && row != 0) {
    const Lock lock(mutex_);
    Slab& slab = slabs_[endpoint];
    const auto rows = static_cast<std::size_t>(whole.front());
    if (state_ == State::serving && (slab.next == rows || slab.memory.dtype() != dtype ||
                                     !std::ranges::equal(slab.memory.shape(), whole))) {
      slab.memory = Tensor();
      if (room_.empty())
        slab.memory = arena_->allocate_tensor(dtype, whole, detail::byte_size(dtype, whole))
                          .value_or(Tensor());
      slab.next = 0;
    }
    if (state_ == State::serving && slab.memory.storage()) {
      slab.used = true;
      return Arena::row_of(slab.memory, slab.next++);
    }
  }
  return allocate(dtype, shape, timeout);  // no batches, or no room for a whole one
}

}  // namespace forge::core
