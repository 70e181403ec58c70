// A call: what a user's future of an engine shares with the engine. Pooled, so that a call costs no
// heap allocation.
#pragma once

#include <forge/future.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "replicas/channel.h"

namespace forge::core {

class Engine;

/// Makes tensors out of an answer. They share the answer's block, so its memory lives as long as
/// the last of them.
class AnswerSource final : public detail::TensorSource {
 public:
  std::shared_ptr<replicas::AnswerBlock> block;
  std::size_t head_size = 0;
  Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                  std::span<const std::int64_t> shape) override;
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                 std::span<const std::int64_t> shape) override;

 private:
  Tensor view(const std::byte* data, std::uint64_t size, DType dtype,
              std::span<const std::int64_t> shape);
};

/// One rank's answer to one share.
struct Answer {
  std::vector<std::byte>
      head;             ///< private copy: what is checked is what is decoded. Keeps its capacity
  AnswerSource source;  ///< the block, if the answer came in one
  std::shared_ptr<const Error> error;  ///< instead of a value
  bool let_down = false;               ///< the error was caused by another rank

  void clear() {
    source.block.reset();
    error.reset();
    let_down = false;
  }
};

/// The error an answer of kind `error` carries, as the caller will see it.
std::shared_ptr<const Error> decode_error(Answer& answer, const std::string& where);

/// Written by the engine under its lock until complete(); read by the future's thread afterwards.
class Call final : public detail::AnswerState {
 public:
  Call();

  /// The call as a whole failed, and no share is settled. Every question is answered with this.
  void refuse(std::shared_ptr<const Error> error);
  /// Ready for `shares` × `ranks` answers. The call keeps its engine alive until it is disposed of.
  void begin(std::shared_ptr<Engine> engine, std::size_t shares, std::size_t ranks,
             std::uint16_t endpoint = 0);
  Answer& answer(std::size_t index) { return answers_[index]; }
  /// It has begun with one share, of which nothing is settled: it is a fanout with so many.
  void spread(std::size_t shares);
  /// One share is settled; true if it was the last.
  bool settle() { return --remaining_ == 0; }

  std::size_t shares() const override { return shares_; }
  std::size_t ranks() const override { return ranks_; }
  detail::Reader value(std::size_t share, std::size_t rank) override;
  std::shared_ptr<const Error> error(std::size_t share) const override;
  std::shared_ptr<const Error> failure() const override {
    heard_ = true;
    return failure_;
  }
  detail::Source source() const override;

  Call* next = nullptr;  ///< in the pool's lists

 private:
  void dispose() noexcept override;
  std::shared_ptr<const Error> first_error() const;

  std::shared_ptr<Engine> engine_;
  std::size_t shares_ = 0;
  std::size_t ranks_ = 0;
  std::size_t remaining_ = 0;
  std::uint16_t endpoint_ = 0;
  mutable bool heard_ = false;  // somebody has asked how it ended; the future's thread
  std::shared_ptr<const Error> failure_;
  std::vector<Answer> answers_;  // only grows; the first shares × ranks are in use
};

/// Calls that are not in use. take() under the engine's lock; put() from any thread.
class CallPool {
 public:
  CallPool() = default;
  CallPool(const CallPool&) = delete;
  CallPool& operator=(const CallPool&) = delete;
  ~CallPool();

  Call& take();
  void put(Call& call);

 private:
  Call* free_ = nullptr;                  // [lock]
  std::atomic<Call*> returned_{nullptr};  // a stack: pushed by anyone, taken whole: no ABA
};

}  // namespace forge::core
