#include "core/call.h"

#include <forge/payload.h>

#include "core/engine.h"

namespace forge::core {
namespace {

/// Bytes of an answer, read-only, on loan from a worker.
struct AnswerStorage final : detail::TensorStorage {
  AnswerStorage(std::shared_ptr<replicas::AnswerBlock> owner, const std::byte* bytes,
                std::size_t count)
      : block(std::move(owner)) {
    data = const_cast<std::byte*>(bytes);  // frozen: nobody gets a writable span
    size = count;
    frozen.store(true, std::memory_order_relaxed);
  }
  std::shared_ptr<replicas::AnswerBlock> block;
};

}  // namespace

Tensor AnswerSource::view(const std::byte* data, std::uint64_t size, DType dtype,
                          std::span<const std::int64_t> shape) {
  return Tensor::adopt(std::make_shared<AnswerStorage>(block, data, size), dtype, shape);
}

Tensor AnswerSource::in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                              std::span<const std::int64_t> shape) {
  if (size == 0) return Tensor(dtype, {shape.begin(), shape.end()});  // there may be no block
  const auto blobs =
      block ? detail::blobs_of(block->bytes(), head_size) : std::span<const std::byte>();
  if (offset > blobs.size() || size > blobs.size() - offset) {
    throw InvalidArgument("an answer refers to bytes outside of its block");
  }
  return view(blobs.data() + offset, size, dtype, shape);
}

Tensor AnswerSource::in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                             std::span<const std::int64_t> shape) {
  if (const std::byte* const moved = block ? block->moved(offset, size) : nullptr)
    return view(moved, size, dtype, shape);
  const replicas::AnswerMemory* memory = block ? block->memory() : nullptr;
  if (memory == nullptr || !memory->contains(offset, size)) {
    throw InvalidArgument("an answer refers to bytes outside of its worker's answer memory");
  }
  return view(memory->data() + offset, size, dtype, shape);
}

std::shared_ptr<const Error> decode_error(Answer& answer, const std::string& where) {
  try {
    std::span<const std::byte> blobs;
    detail::Reader reader(answer.head, blobs, &answer.source);
    Status status = to_status(*detail::read_error(reader, 0));
    status.message = where + ": " + status.message;
    return make_error(status);
  } catch (const Error& error) {
    return make_error({ErrorCode::worker_lost,
                       where + ": the worker's error cannot be read (" + error.what() + ")",
                       {},
                       true});
  }
}

Call::Call() : AnswerState(nullptr) {}

void Call::begin(std::shared_ptr<Engine> engine, std::size_t shares, std::size_t ranks,
                 std::uint16_t endpoint) {
  rearm(engine.get());
  engine_ = std::move(engine);
  shares_ = shares;
  ranks_ = ranks;
  remaining_ = shares;
  endpoint_ = endpoint;
  heard_ = false;
  if (answers_.size() < shares * ranks) answers_.resize(shares * ranks);
}

void Call::spread(std::size_t shares) {
  shares_ = shares;
  remaining_ = shares;
  if (answers_.size() < shares * ranks_) answers_.resize(shares * ranks_);
}

void Call::refuse(std::shared_ptr<const Error> error) {
  failure_ = std::move(error);
  complete();
}

detail::Reader Call::value(std::size_t share, std::size_t rank) {
  heard_ = true;
  Answer& answer = answers_[share * ranks_ + rank];
  if (answer.error) answer.error->raise();
  std::span<const std::byte> blobs;
  if (answer.source.block) {
    answer.source.block->fetch();
    blobs = detail::blobs_of(answer.source.block->bytes(), answer.head.size());
  }
  return detail::Reader(answer.head, blobs, &answer.source);
}

std::shared_ptr<const Error> Call::error(std::size_t share) const {
  heard_ = true;
  if (failure_) return failure_;
  std::shared_ptr<const Error> consequence;
  for (std::size_t rank = 0; rank < ranks_; ++rank) {
    const Answer& answer = answers_[share * ranks_ + rank];
    if (!answer.error) continue;
    if (!answer.let_down) return answer.error;
    if (!consequence) consequence = answer.error;
  }
  return consequence;
}

std::shared_ptr<const Error> Call::first_error() const {
  if (failure_) return failure_;
  for (std::size_t i = 0; i < shares_ * ranks_; ++i) {
    if (answers_[i].error) return answers_[i].error;
  }
  return nullptr;
}

detail::Source Call::source() const {
  if (!engine_) return {};
  return {std::shared_ptr<detail::Origin>(engine_), endpoint_};
}

void Call::dispose() noexcept {
  if (!heard_ && engine_) {
    if (const auto error = first_error()) engine_->unheard(endpoint_, *error);
  }
  for (std::size_t i = 0; i < shares_ * ranks_; ++i) answers_[i].clear();
  failure_.reset();
  // The reference goes last: it may be the one that keeps the pool alive.
  const std::shared_ptr<Engine> engine = std::move(engine_);
  engine->recycle(*this);
}

CallPool::~CallPool() {
  // Relaxed: who destroys the pool knows that every put() is over.
  for (Call* list : {free_, returned_.load(std::memory_order_relaxed)}) {
    while (list != nullptr) delete std::exchange(list, list->next);
  }
}

Call& CallPool::take() {
  // Acquire pairs with put(): we see the call as its last user left it.
  if (free_ == nullptr) free_ = returned_.exchange(nullptr, std::memory_order_acquire);
  if (free_ == nullptr) return *new Call();
  return *std::exchange(free_, free_->next);
}

void CallPool::put(Call& call) {
  call.next = returned_.load(std::memory_order_relaxed);
  // Release pairs with take().
  while (!returned_.compare_exchange_weak(call.next, &call, std::memory_order_release,
                                          std::memory_order_relaxed)) {
  }
}

}  // namespace forge::core
