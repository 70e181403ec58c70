#include "replicas/answer_memory.h"

#include <forge/error.h>
#include <forge/wire.h>

#include <algorithm>

namespace forge::replicas {
namespace {

/// Notes what a message refers to in its home, and makes tensors of nothing.
class HomeReferences final : public detail::TensorSource {
 public:
  struct Reference {
    std::uint64_t offset;
    std::uint64_t size;
  };

  /// Of a whole message. A worker wrote it: where it is none, there is nothing.
  static std::vector<Reference> of(std::span<const std::byte> head) {
    HomeReferences found;
    detail::Reader reader(head, {}, &found);
    try {
      while (!reader.at_end()) {
        switch (reader.peek()) {
          case detail::Kind::array:
            (void)reader.array();  // its values come next
            break;
          case detail::Kind::map:
            (void)reader.map();
            break;
          case detail::Kind::tensor:
            (void)reader.tensor();
            break;
          default:
            reader.skip();
        }
      }
    } catch (const Error&) {
      return {};
    }
    return std::move(found.references_);
  }

 private:
  Tensor in_block(std::uint64_t, std::uint64_t, DType, std::span<const std::int64_t>) override {
    return {};
  }
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType,
                 std::span<const std::int64_t>) override {
    references_.push_back({offset, size});
    return {};
  }
  std::vector<Reference> references_;
};

}  // namespace

// ---- AnswerMemory

void AnswerMemory::open(const WayHome& way) {
  const std::lock_guard lock(mutex_);
  way_.emplace(way);
  ring_.emplace(way.slots, shm::kReleases, way.tail, way.head);
}

void AnswerMemory::close() {
  const std::lock_guard lock(mutex_);
  ring_.reset();
  way_.reset();
}

/// True if anything was sent.
bool AnswerMemory::push_all() {
  bool any = false;
  if (!ring_) return any;
  while (!unsent_.empty() && ring_->try_push(unsent_.back())) {
    unsent_.pop_back();
    any = true;
  }
  unsent_any_.store(!unsent_.empty(), std::memory_order_relaxed);
  return any;
}

void AnswerMemory::send() {
  // Relaxed: hints; what is missed now goes with the next push.
  if (!released_.any() && !unsent_any_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  released_.take(unsent_);
  push_all();
}

void AnswerMemory::send_now() {
  const std::lock_guard lock(mutex_);
  released_.take_all(unsent_);
  if (!push_all()) return;
  shm::handshake_fence();
  // Relaxed: the fence orders this against our publishing of the offsets.
  if (way_->parked.load(std::memory_order_relaxed) != 0) ring(way_->bell, shm::Scope::shared);
}

bool AnswerMemory::make_room(std::uint64_t wanted) {
  const std::lock_guard lock(mutex_);
  starving_.store(true, std::memory_order_relaxed);
  std::uint64_t freed = 0;
  for (auto next = lent_.begin(); next != lent_.end() && freed < wanted;) {
    AnswerBlock& block = *next++;
    freed += block.move_out();
  }
  released_.take_all(unsent_);
  const bool any = !unsent_.empty();
  push_all();
  return any;
}

// ---- AnswerBlock

AnswerBlock::AnswerBlock(std::shared_ptr<AnswerMemory> memory, std::uint64_t offset,
                         std::uint64_t size, bool copy)
    : memory_(std::move(memory)), offset_(offset), bytes_(memory_->data() + offset, size) {
  if (!copy) return;
  copy_.assign(bytes_.begin(), bytes_.end());
  bytes_ = copy_;
  moved_out_ = true;
  std::exchange(memory_, nullptr)->release(offset_);
}

AnswerBlock::~AnswerBlock() {
  if (!memory_) return;
  {
    const std::lock_guard lock(memory_->mutex_);  // its neighbours in the list come and go
    if (is_linked()) memory_->lent_.erase(memory_->lent_.iterator_to(*this));
  }
  if (!moved_out_) memory_->release(offset_);
}

void AnswerBlock::lend(std::size_t head_size) {
  if (!memory_) return;
  head_size_ = head_size;
  const std::lock_guard lock(memory_->mutex_);
  state_.store(State::lent, std::memory_order_relaxed);
  memory_->lent_.push_back(*this);
}

void AnswerBlock::fetch() {
  State seen = State::lent;
  // Acquire pairs with move_out(): of a block that was moved, we see where to.
  if (state_.compare_exchange_strong(seen, State::kept, std::memory_order_acquire)) return;
  if (seen != State::moving) return;
  const std::lock_guard lock(memory_->mutex_);  // until it has been moved
}

/// Gives the bytes that its worker gets back; 0 if somebody reads it, or it was moved before.
std::uint64_t AnswerBlock::move_out() {
  State seen = State::lent;
  if (!state_.compare_exchange_strong(seen, State::moving, std::memory_order_relaxed)) return 0;
  copy_.assign(bytes_.begin(), bytes_.end());
  bytes_ = copy_;
  std::uint64_t freed = bytes_.size();
  copy_pieces();
  for (const Piece& piece : pieces_) freed += piece.bytes.byte_count();
  moved_out_ = true;
  memory_->unsent_.push_back(offset_);
  state_.store(State::moved, std::memory_order_release);
  return freed;
}

/// From our own copy: the worker may change its own.
void AnswerBlock::copy_pieces() {
  const std::span<const std::byte> head(copy_.data(), std::min(head_size_, copy_.size()));
  for (const auto& [offset, size] : HomeReferences::of(head)) {
    if (!memory_->contains(offset, size) || moved(offset, size) != nullptr) continue;
    Tensor bytes(DType::u8, {static_cast<std::int64_t>(size)});
    std::copy_n(memory_->data() + offset, size, bytes.span<std::byte>().data());
    pieces_.push_back({offset, std::move(bytes)});
  }
}

const std::byte* AnswerBlock::moved(std::uint64_t offset, std::uint64_t size) const {
  for (const Piece& piece : pieces_) {
    if (piece.offset == offset && size <= piece.bytes.byte_count())
      return piece.bytes.bytes().data();
  }
  return nullptr;
}

}  // namespace forge::replicas
