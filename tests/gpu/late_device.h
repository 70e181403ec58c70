// A device of the test's own that does its work late: what is put into a stream is only done when
// somebody looks (an event is asked for, a stream is waited for), a step at a time, and in an order
// between streams that is as unkind as their events allow. Who reads, reuses or frees memory too
// early finds wrong bytes there, or a sanitizer's report.
#pragma once

#include <forge/error.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "gpu/backend.h"

namespace forge::tests {

/// What tests want to know, and may set. Outlives the backend; the worker's thread alone writes it
/// while that runs.
struct LateDevice {
  // Set before.
  int looks_per_step = 1;  ///< how often somebody must look before one thing is done
  bool oldest_first =
      false;  ///< streams have their turn as they were made; else the other way round
  std::size_t memory = std::size_t{1} << 28;
  std::uint64_t refuse_copy_in = 0;  ///< the n-th copy of a piece into the device fails; 0: none
  bool pins_read_only = true;

  // Counted.
  std::uint64_t copies_in = 0;  ///< calls of a stream that brought something in
  std::uint64_t gathers = 0;    ///< of those, with several pieces
  std::uint64_t pieces = 0;     ///< in those
  std::uint64_t copies_out = 0;
  std::uint64_t captures = 0;
  std::uint64_t launches = 0;
  std::size_t pinned = 0;  ///< bytes, ever
  std::size_t used = 0;    ///< bytes in buffers
  std::size_t most_used = 0;
};

class LateStream;

/// Streams, and what is to be done in each.
class LateWork {
 public:
  explicit LateWork(LateDevice& device) : device_(device) {}

  LateDevice& device() { return device_; }
  void look() {
    if (++looks_ % device_.looks_per_step == 0) step();
  }
  /// Does one thing, of the first stream that has something to do.
  bool step();
  void add(LateStream* stream) { streams_.push_back(stream); }
  void remove(LateStream* stream) { std::erase(streams_, stream); }

 private:
  LateDevice& device_;
  int looks_ = 0;
  std::vector<LateStream*> streams_;
};

class LateEvent final : public gpu::Event {
 public:
  explicit LateEvent(std::shared_ptr<LateWork> work) : work_(std::move(work)) {}
  Result<bool> done() override {
    work_->look();
    return *reached >= recorded;
  }
  Status synchronize() override {
    while (*reached < recorded && work_->step()) {
    }
    return {};
  }
  void* native() const override { return nullptr; }

  std::uint64_t recorded = 0;
  std::shared_ptr<std::uint64_t> reached = std::make_shared<std::uint64_t>(0);

 private:
  std::shared_ptr<LateWork> work_;
};

/// A buffer's memory is freed where the stream has come past.
class LateStream final : public gpu::Stream {
 public:
  /// False: not yet.
  using Step = std::function<bool()>;

  explicit LateStream(std::shared_ptr<LateWork> work) : work_(std::move(work)) { work_->add(this); }
  ~LateStream() override {
    (void)do_synchronize();
    work_->remove(this);
  }
  /// What a kernel is elsewhere.
  void put(std::function<void()> kernel) {
    push([kernel = std::move(kernel)] { return kernel(), true; });
  }
  bool step() {
    if (steps_.empty() || !steps_.front()()) return false;
    steps_.pop_front();
    return true;
  }
  void* native() const override { return const_cast<LateStream*>(this); }

 private:
  class Memory;
  struct Captured final : gpu::Graph {
    std::vector<Step> steps;
    void* native() const override { return nullptr; }
  };

  void push(Step step) { (capturing() ? captured_ : steps_).push_back(std::move(step)); }
  Status copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    push([=] { return std::memcpy(to, from, bytes), true; });
    return {};
  }
  Status refused() { return {ErrorCode::unavailable, "the copy was refused, as the test wanted"}; }

  Result<std::unique_ptr<gpu::Buffer>> do_allocate(std::size_t bytes) override;
  Status do_copy_in(std::byte* to, gpu::HostPiece from) override {
    if (++pieces_in_ == work_->device().refuse_copy_in) return refused();
    ++work_->device().copies_in;
    return copy(to, from.data(), from.size());
  }
  Status do_copy_out(std::span<std::byte> to, const std::byte* from) override {
    ++work_->device().copies_out;
    return copy(to.data(), from, to.size());
  }
  Status do_copy_between(std::byte* to, const std::byte* from, std::size_t bytes) override {
    return copy(to, from, bytes);
  }
  Status do_gather(std::byte* to, std::span<const gpu::HostPiece> pieces,
                   gpu::GatherPath) override {
    ++work_->device().copies_in;
    ++work_->device().gathers;
    for (const gpu::HostPiece piece : pieces) {
      if (++pieces_in_ == work_->device().refuse_copy_in) return refused();
      ++work_->device().pieces;
      (void)copy(to, piece.data(), piece.size());
      to += piece.size();
    }
    return {};
  }
  Status do_begin_capture() override {
    captured_.clear();
    return {};
  }
  Result<std::unique_ptr<gpu::Graph>> do_end_capture() override {
    auto graph = std::make_unique<Captured>();
    graph->steps.assign(captured_.begin(), captured_.end());
    ++work_->device().captures;
    return graph;
  }
  Status do_launch(gpu::Graph& graph) override {
    ++work_->device().launches;
    for (const Step& step : static_cast<Captured&>(graph).steps) steps_.push_back(step);
    return {};
  }
  Status do_record(gpu::Event& event) override {
    auto& late = static_cast<LateEvent&>(event);
    push([reached = late.reached, number = ++late.recorded] { return *reached = number, true; });
    return {};
  }
  Status do_wait(const gpu::Event& event) override {
    const auto& late = static_cast<const LateEvent&>(event);
    push([reached = late.reached, number = late.recorded] { return *reached >= number; });
    return {};
  }
  Status do_synchronize() override {
    while (!steps_.empty() && work_->step()) {
    }
    return {};
  }

  std::shared_ptr<LateWork> work_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::deque<Step> steps_;
  std::deque<Step> captured_;
  std::uint64_t pieces_in_ = 0;
};

class LateStream::Memory final : public gpu::Buffer {
 public:
  Memory(LateStream& stream, std::unique_ptr<std::byte[]> bytes, std::size_t size)
      : Buffer(bytes.get(), size),
        stream_(stream),
        alive_(stream.alive_),
        work_(stream.work_),
        bytes_(std::move(bytes)) {}
  ~Memory() override {
    work_->device().used -= size();
    if (alive_.expired()) return;  // the stream is gone, and with it all work
    stream_.push([bytes = std::shared_ptr<std::byte[]>(std::move(bytes_))]() mutable {
      bytes.reset();
      return true;
    });
  }

 private:
  LateStream& stream_;
  std::weak_ptr<bool> alive_;
  std::shared_ptr<LateWork> work_;
  std::unique_ptr<std::byte[]> bytes_;
};

inline Result<std::unique_ptr<gpu::Buffer>> LateStream::do_allocate(std::size_t bytes) {
  LateDevice& device = work_->device();
  if (device.used + bytes > device.memory) {
    return make_error(
        {ErrorCode::unavailable, "device memory: " + std::to_string(bytes) + " bytes do not fit"});
  }
  device.used += bytes;
  device.most_used = std::max(device.most_used, device.used);
  auto memory = std::make_unique<std::byte[]>(bytes + 1);
  std::memset(memory.get(), 0xEE, bytes);
  return std::make_unique<Memory>(*this, std::move(memory), bytes);
}

inline bool LateWork::step() {
  const auto works = [](LateStream* stream) { return stream->step(); };
  return device_.oldest_first ? std::any_of(streams_.begin(), streams_.end(), works)
                              : std::any_of(streams_.rbegin(), streams_.rend(), works);
}

class LateBackend final : public gpu::Backend {
 public:
  explicit LateBackend(LateDevice& device)
      : info_{.ordinal = 0,
              .name = "late",
              .uuid = "GPU-fake-late",
              .memory = device.memory,
              .pins_read_only = device.pins_read_only},
        work_(std::make_shared<LateWork>(device)) {}

  const gpu::DeviceInfo& device() const override { return info_; }
  gpu::MemoryUse memory() const override { return {work_->device().used, 0, info_.memory}; }
  bool healthy() const override { return true; }
  Result<std::unique_ptr<gpu::Stream>> make_stream() override {
    return std::make_unique<LateStream>(work_);
  }
  Result<std::unique_ptr<gpu::Event>> make_event() override {
    return std::make_unique<LateEvent>(work_);
  }
  Result<std::unique_ptr<gpu::Buffer>> allocate_shared(std::size_t) override {
    return no_sharing();
  }
  Result<gpu::IpcHandle> export_buffer(const gpu::Buffer&) override { return no_sharing(); }
  Result<std::unique_ptr<gpu::Buffer>> import_buffer(const gpu::IpcHandle&) override {
    return no_sharing();
  }

 private:
  struct Region final : gpu::PinnedRegion {
    explicit Region(gpu::PinTable::Claim claim) : PinnedRegion(std::move(claim)) {}
  };
  static std::shared_ptr<const Error> no_sharing() {
    return make_error({ErrorCode::not_supported, "the late device shares nothing"});
  }
  Result<std::unique_ptr<gpu::PinnedRegion>> do_pin(gpu::PinTable::Claim claim,
                                                    const gpu::PinOptions&) override {
    work_->device().pinned += claim.memory().size();
    return std::make_unique<Region>(std::move(claim));
  }

  gpu::DeviceInfo info_;
  std::shared_ptr<LateWork> work_;
};

}  // namespace forge::tests
