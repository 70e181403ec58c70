// A controller's channel and a worker that is a thread, over the same plain memory: a sanitizer
// sees both sides of every byte they share, which it cannot through two mappings.
#pragma once

#include <forge/error.h>
#include <forge/payload.h>
#include <forge/result.h>
#include <forge/wait.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/call.h"
#include "replicas/channel.h"
#include "replicas/ledger.h"
#include "replicas/worker.h"
#include "shm/block_pool.h"
#include "tests/replicas/plain_memory.h"

namespace forge::tests {

struct PairSpec {
  Wait wait = Wait::adaptive;
  std::size_t answer_bytes = std::size_t{4} << 20;
  std::size_t arena_bytes = std::size_t{4} << 20;
  std::uint32_t calls = 1;
  /// Called on the worker's thread; null: the host's.
  std::function<Result<std::unique_ptr<gpu::Backend>>()> backend{};
};

/// One answer as it arrived, with all that it holds.
struct Reply {
  shm::RequestId id{};
  shm::ResponseKind kind{};
  core::Answer answer;

  template <class R>
  R value() {
    if (kind == shm::ResponseKind::error) core::decode_error(answer, "worker")->raise();
    if (kind != shm::ResponseKind::value) throw std::logic_error("expired");
    std::span<const std::byte> blobs;
    if (answer.source.block) {
      blobs = detail::blobs_of(answer.source.block->bytes(), answer.source.head_size);
    }
    detail::Reader reader(answer.head, blobs, &answer.source);
    if constexpr (std::is_void_v<R>) {
      reader.nil();
      reader.finish();
    } else {
      R result = detail::Codec<R>::decode(reader);
      reader.finish();
      return result;
    }
  }
};

/// What the engine is in the library: it places payloads, keeps the ledger and fetches answers.
class WorkerThread {
 public:
  explicit WorkerThread(const PairSpec& spec = {})
      : requests_(shm::kRequestFileSize),
        responses_(shm::kAnswersOffset + spec.answer_bytes),
        arena_(shm::kArenaBlocksOffset + spec.arena_bytes),
        blocks_(arena_.data() + shm::kArenaBlocksOffset, spec.arena_bytes, spec.arena_bytes),
        channel_(replicas::Channel::over(requests_.segment(), responses_.segment(),
                                         {.name = "test",
                                          .incarnation = kIncarnation,
                                          .replica = kReplica,
                                          .rank = 0,
                                          .procs = 1,
                                          .wait = spec.wait,
                                          .calls = spec.calls,
                                          .answer_bytes = spec.answer_bytes})),
        make_backend_(spec.backend) {
    arena_.as<shm::ArenaHeader>().header = shm::make_header(arena_.size(), 0);
  }
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;
  ~WorkerThread() {
    if (thread_.joinable()) stop();
  }

  void start() {
    thread_ = std::thread([this] {
      Result<std::unique_ptr<gpu::Backend>> backend(nullptr);
      if (make_backend_) backend = make_backend_();
      status_ = replicas::serve(requests_.segment(), responses_.segment(), arena_.segment(), {},
                                std::move(backend));
    });
  }
  /// Waits until it has ended by itself; its exit status.
  int join() {
    thread_.join();
    return status_;
  }
  int stop() {
    shm::RequestSlot slot{};
    slot.kind = shm::RequestKind::stop;
    push(slot);
    return join();
  }

  /// Starts it with an actor of this program.
  template <class... Args>
  Result<void> start_actor(const std::string& actor, const Args&... args) {
    start();
    writer_.reset();
    writer_.array(5);
    writer_.string("");
    writer_.string("");  // whatever build it is
    writer_.string("test");
    writer_.string(actor);
    writer_.array(0);  // endpoints go by their index in the manifest
    encode(args...);
    replicas::Entry& entry = open();
    entry.slot.kind = shm::RequestKind::setup;
    send(entry);
    Reply reply = wait();
    if (reply.kind == shm::ResponseKind::error) return core::decode_error(reply.answer, "setup");
    reply.value<void>();
    return {};
  }

  template <class... Args>
  shm::RequestId send(std::uint16_t endpoint, const Args&... args) {
    return send_until(0, endpoint, args...);
  }
  template <class... Args>
  shm::RequestId send_until(std::int64_t deadline_ns, std::uint16_t endpoint, const Args&... args) {
    writer_.reset(arena_.data());
    encode(args...);
    replicas::Entry& entry = open();
    entry.slot.endpoint = endpoint;
    entry.slot.deadline_ns = deadline_ns;
    return send(entry);
  }
  /// One argument for each call of a batch.
  template <class T>
  void send_batch(std::uint16_t endpoint, const std::vector<T>& arguments) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      writer_.reset(arena_.data());
      encode(arguments[i]);
      replicas::Entry& entry = open();
      entry.slot.endpoint = endpoint;
      entry.slot.batch = i == 0 ? static_cast<std::uint32_t>(arguments.size()) : 0;
      ledger_.sent(entry, kReplica, kIncarnation, 1);
      channel_->stage(entry.slot);
    }
    channel_->commit();
    channel_->wake_worker();
  }

  /// As service.allocate gives them. The test drops it while this lives.
  Tensor in_arena(DType dtype, const std::vector<std::int64_t>& shape) {
    const std::size_t bytes = detail::byte_size(dtype, shape);
    const auto block = blocks_.allocate(bytes);
    if (!block) throw std::logic_error("the arena is full");
    auto storage = std::make_shared<ArenaStorage>();
    storage->data = blocks_.at(*block);
    storage->size = bytes;
    storage->home = arena_.data();
    storage->home_offset = *block + shm::kArenaBlocksOffset;
    return Tensor::adopt(std::move(storage), dtype, shape);
  }

  /// Waits for the next answer.
  Reply wait() {
    shm::ResponseSlot slot;
    while (!channel_->pop(slot)) {
      if (channel_->violation() != nullptr) throw std::logic_error(channel_->violation());
      ::sched_yield();
    }
    return receive(slot);
  }
  template <class R, class... Args>
  R call(std::uint16_t endpoint, const Args&... args) {
    send(endpoint, args...);
    return wait().value<R>();
  }

  Reply receive(const shm::ResponseSlot& slot) {
    replicas::Entry* entry = ledger_.find(slot.id);
    if (entry == nullptr || !ledger_.accept(*entry, kReplica, kIncarnation, 0, slot.attempt)) {
      throw std::logic_error("an answer to nothing");
    }
    if (entry->slot.block_size != 0) {
      blocks_.free(entry->slot.block - shm::kArenaBlocksOffset);
    }
    ledger_.close(*entry);
    Reply reply;
    reply.id = slot.id;
    reply.kind = slot.kind;
    const std::byte* head = slot.answer;
    if (slot.block != 0) {
      const bool copy = (slot.flags & shm::kCopyOut) != 0;
      reply.answer.source.block = std::make_shared<replicas::AnswerBlock>(
          channel_->answers(), slot.block, slot.block_size, copy);
      head = reply.answer.source.block->bytes().data();
    }
    reply.answer.head.assign(head, head + slot.head_size);
    reply.answer.source.head_size = slot.head_size;
    return reply;
  }

  /// Returns the position in the request ring.
  std::uint64_t push(const shm::RequestSlot& slot) {
    if (!channel_->has_room()) throw std::logic_error("the window is full");
    const std::uint64_t position = channel_->push(slot);
    channel_->wake_worker();
    return position;
  }

  replicas::Channel& channel() { return *channel_; }
  std::shared_ptr<replicas::Channel>& shared_channel() { return channel_; }
  shm::RequestFile& request_file() const { return requests_.as<shm::RequestFile>(); }
  shm::ResponseFile& response_file() const { return responses_.as<shm::ResponseFile>(); }
  shm::ArenaHeader& arena_header() const { return arena_.as<shm::ArenaHeader>(); }
  const PlainMemory& responses() const { return responses_; }
  const PlainMemory& arena() const { return arena_; }
  const shm::BlockPool& blocks() const { return blocks_; }
  std::size_t open_calls() const { return ledger_.open_entries(); }

  static constexpr std::uint32_t kReplica = 3;
  static constexpr std::uint64_t kIncarnation = 7;

 private:
  struct ArenaStorage final : detail::TensorStorage {};

  template <class... Args>
  void encode(const Args&... args) {
    writer_.array(sizeof...(Args));
    (detail::encode(writer_, args), ...);
  }

  /// An entry whose payload is what writer_ holds.
  replicas::Entry& open() {
    const auto block = blocks_.allocate(writer_.block_size());
    if (!block) throw std::logic_error("the arena is full");
    writer_.write_to(blocks_.at(*block));
    replicas::Entry& entry = ledger_.open(0);
    entry.slot.block = *block + shm::kArenaBlocksOffset;
    entry.slot.block_size = writer_.block_size();
    entry.slot.head_size = static_cast<std::uint32_t>(writer_.head().size());
    return entry;
  }
  shm::RequestId send(replicas::Entry& entry) {
    ledger_.sent(entry, kReplica, kIncarnation, 1);
    push(entry.slot);
    return entry.slot.id;
  }

  PlainMemory requests_;
  PlainMemory responses_;
  PlainMemory arena_;
  shm::BlockPool blocks_;
  replicas::Ledger ledger_;
  detail::Writer writer_;
  std::shared_ptr<replicas::Channel> channel_;
  std::function<Result<std::unique_ptr<gpu::Backend>>()> make_backend_;
  std::thread thread_;
  int status_ = -1;
};

}  // namespace forge::tests
