// A response file of a worker gone mad, and a controller that drains it as the engine does.
//
// The input is a script: it writes slots, ring indices, answers or any byte of the file, and lets
// the controller act in between. So the file also changes between two looks of the controller.
#include <forge/error.h>

#include <deque>
#include <memory>

#include "core/call.h"
#include "replicas/channel.h"
#include "replicas/manifest.h"
#include "tests/fuzz/guarded_memory.h"
#include "tests/fuzz/payloads.h"

namespace forge::fuzz {
namespace {

using replicas::AnswerBlock;
using replicas::Channel;
using shm::ResponseSlot;

constexpr std::size_t kAnswers = 8192;
constexpr std::size_t kFileSize = shm::kAnswersOffset + kAnswers;
constexpr std::size_t kMostHeld = 16;

class Script {
 public:
  explicit Script(Input input) : input_(input) {}

  void run() {
    while (!input_.empty()) step();
    while (pop(0)) {
    }
    held_.clear();
    tensors_.clear();
    channel_->flush_releases();
  }

 private:
  void step() {
    switch (input_.byte() % 12) {
      case 0:
        return answer_inline();
      case 1:
        return answer_block();
      case 2: {  // a slot of any bytes
        ResponseSlot slot{};
        write(reinterpret_cast<std::byte*>(&slot), sizeof(slot), sizeof(slot));
        return publish(slot);
      }
      case 3: {  // bytes of answers
        const auto at = input_.below(kAnswers / 8) * 8;
        return write(file_bytes() + shm::kAnswersOffset + at, input_.byte(), kAnswers - at);
      }
      case 4: {  // bytes anywhere
        const auto at = input_.below(kFileSize);
        return write(file_bytes() + at, input_.byte(), kFileSize - at);
      }
      case 5:
        return set_index();
      case 6:
        return push(input_.byte());
      case 7:
        if (!held_.empty()) read(*held_[input_.byte() % held_.size()], input_.byte());
        return;
      case 8:
        read_flight();
        channel_->flush_releases();
        return channel_->wake_worker();
      case 9:
        if (!held_.empty()) held_.pop_front();
        if (!tensors_.empty()) tensors_.pop_front();
        return;
      default:
        (void)pop(input_.byte());
    }
  }

  // ---- the worker

  std::byte* file_bytes() { return responses_.data(); }
  shm::ResponseFile& file() { return responses_.as<shm::ResponseFile>(); }

  void write(std::byte* to, std::size_t wanted, std::size_t room) {
    const auto bytes = input_.take(std::min(wanted, room));
    std::ranges::copy(bytes, to);
  }
  void publish(const ResponseSlot& slot) {
    file().responses[answered_ % shm::kWindow] = slot;
    file().responses_tail.position.store(++answered_);
  }
  ResponseSlot begin() {
    ResponseSlot slot{};
    slot.kind = static_cast<shm::ResponseKind>(input_.byte() % 4);
    slot.flags = input_.byte();
    return slot;
  }
  void answer_inline() {
    ResponseSlot slot = begin();
    slot.head_size = input_.byte() % (shm::kInlineAnswer + 2);
    write(slot.answer, slot.head_size, sizeof(slot.answer));
    publish(slot);
  }
  void answer_block() {
    ResponseSlot slot = begin();
    slot.block = shm::kAnswersOffset + input_.below(kAnswers / 64 + 1) * 64;
    slot.block_size = input_.below(kAnswers + 64);
    slot.head_size = input_.number<std::uint16_t>();
    publish(slot);
  }
  void set_index() {
    std::atomic<std::uint64_t>* const indices[] = {
        &file().responses_tail.position, &file().requests_head.position, &file().started.position,
        &file().releases_head.position};
    auto& index = *indices[input_.byte() % std::size(indices)];
    const std::uint8_t how = input_.byte();
    if (how == 0) {
      index.store(input_.number<std::uint64_t>());
    } else if (how == 1) {
      index.store(~std::uint64_t{0});
    } else {
      index.fetch_add(how - std::uint64_t{128});
    }
  }

  // ---- the controller

  void push(std::uint64_t count) {
    for (; count != 0 && channel_->has_room(); --count) {
      shm::RequestSlot slot{};
      slot.kind = shm::RequestKind::call;
      require(channel_->push(slot) == pushed_, "positions count up");
      ++pushed_;
    }
    require(channel_->outstanding() <= shm::kWindow, "no more is out than fits a ring");
  }

  bool pop(std::uint8_t how) {
    const bool stopped = channel_->violation() != nullptr;
    ResponseSlot slot;
    if (!channel_->maybe_ready() || !channel_->pop(slot)) return false;
    require(!stopped, "nothing is read after a violation");
    require(++popped_ <= pushed_, "no more answers than requests");
    require(channel_->started() <= pushed_, "nothing was started that was not pushed");
    if (how == 255) {  // nobody waits for it
      if (slot.block != 0) channel_->answers()->released().put(slot.block);
      return true;
    }
    auto answer = std::make_unique<core::Answer>();
    const std::byte* head = slot.answer;
    if (slot.block != 0) {
      answer->source.block = std::make_shared<AnswerBlock>(
          channel_->answers(), slot.block, slot.block_size, (slot.flags & shm::kCopyOut) != 0);
      head = answer->source.block->bytes().data();
      touch(answer->source.block->bytes());
    }
    answer->head.assign(head, head + slot.head_size);
    answer->source.head_size = slot.head_size;
    if (slot.kind == shm::ResponseKind::error) {
      require(core::decode_error(*answer, "here") != nullptr, "an error is one");
    }
    read(*answer, how);
    held_.push_back(std::move(answer));
    if (held_.size() > kMostHeld) held_.pop_front();
    return true;
  }

  void read_flight() {
    const replicas::Flight flight = channel_->flight();
    require(flight.events.size() <= shm::kFlightEvents, "no more events than there is room for");
    (void)replicas::describe(flight, 0, [](std::uint16_t) { return "endpoint"; });
  }

  detail::Reader reader(core::Answer& answer) {
    std::span<const std::byte> blobs;
    if (answer.source.block) {
      blobs = detail::blobs_of(answer.source.block->bytes(), answer.head.size());
    }
    return detail::Reader(answer.head, blobs, &answer.source);
  }

  void read(core::Answer& answer, std::uint8_t how) {
    try {
      detail::Reader all = reader(answer);
      read_everything(all);
    } catch (const InvalidArgument&) {
    }
    try {
      detail::Reader as_manifest(answer.head);
      (void)replicas::decode_manifest(as_manifest);
    } catch (const InvalidArgument&) {
    }
    with_type(AllTypes{}, how, [&]<class T>() {
      try {
        detail::Reader typed = reader(answer);
        [[maybe_unused]] auto value = detail::Codec<T>::decode(typed);
        if constexpr (std::is_same_v<T, Tensor>) tensors_.push_back(std::move(value));
      } catch (const InvalidArgument&) {
      }
    });
    if (tensors_.size() > kMostHeld) tensors_.pop_front();
    for (const Tensor& tensor : tensors_) touch(tensor.bytes());
  }

  Input input_;
  inline static GuardedMemory requests_{shm::kRequestFileSize};
  inline static GuardedMemory responses_{kFileSize};
  std::shared_ptr<Channel> channel_ = Channel::over(requests_.fresh(), responses_.fresh(),
                                                    {.name = "fuzz", .answer_bytes = kAnswers});
  std::deque<std::unique_ptr<core::Answer>> held_;
  std::deque<Tensor> tensors_;
  std::uint64_t answered_ = 0;
  std::uint64_t pushed_ = 0;
  std::uint64_t popped_ = 0;
};

}  // namespace
}  // namespace forge::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  forge::fuzz::Script({data, size}).run();
  return 0;
}
