// DeviceLane: how the calls of one worker get their tensors to its device and back.
//
// Three streams: `in` brings arguments, `compute` is the one actors see, `out` brings results back.
// Events join them: compute waits for the arguments of the call, out for what compute was given. So
// the copies of one call run beside the work of its neighbours.
//
// Roles: executions put work in and take a Mark; the worker's loop asks when marks have passed.
// Everything happens on the worker's thread, but tensors may be dropped on any.
//
// Invariants
//   D1  Marks pass in the order in which they were taken: each is the last thing in `out` so far.
//   D2  Device memory is dropped when a mark has passed that was taken after nobody could name it
//       any more; so nothing that was put in before still uses it. Only what comes from `compute`,
//       was not sent and is dropped on the worker's thread goes at once: dropping it is ordered.
//   D3  After an error that leaves the device unusable, `lost` is called and does not return.
#pragma once

#include <forge/device.h>
#include <forge/tensor.h>

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "gpu/backend.h"

namespace forge::replicas {

class DeviceLane;

/// Bytes of a request on their way to the device, and the storage that shows them there.
class Arrival : public detail::TensorStorage {
 public:
  /// Where they lie now; one behind the other they are what the storage shows.
  virtual std::span<const gpu::HostPiece> pieces() const = 0;
  /// They have been put on their way to `at`, which lives as long as `memory`.
  virtual void move_to(std::byte* at, DeviceLane& lane, std::shared_ptr<void> memory) = 0;
};

class DeviceLane final : public detail::DeviceWork {
 public:
  /// A point behind all that was put in before it was taken.
  struct Mark {
    std::unique_ptr<gpu::Event> event;  ///< null: it has passed
    std::uint64_t number = 0;
    Status failure;  ///< of what was put in, once it has passed
  };

  /// `lost` stores why and ends the process (D3).
  static Result<std::unique_ptr<DeviceLane>> create(gpu::Backend& backend,
                                                    std::function<void(const Status&)> lost);
  ~DeviceLane();

  int ordinal() const { return backend_.device().ordinal; }
  /// Where the actor's work goes.
  gpu::Stream& compute() { return *compute_; }

  // Into the device. All throw what the backend says.

  /// In one buffer; compute waits for them. When it throws, nobody reads their bytes any more.
  void bring(std::span<Arrival* const> arrivals);
  /// Memory ordered in compute.
  Tensor allocate(DType dtype, std::span<const std::int64_t> shape);
  /// In compute. Pinned memory must stay as it is until that has come past.
  Tensor copy_of(const Tensor& host);
  /// In compute; waits for it.
  void copy_back(const Tensor& from, std::span<std::byte> to);
  /// Pieces of device memory one behind the other, in compute.
  std::shared_ptr<detail::TensorStorage> join_pieces(std::span<const gpu::HostPiece> pieces);
  /// Waits for compute.
  void synchronize();
  /// Something that others put into compute has failed: finds out whether the device is lost (D3).
  void suspect(const Status& why) const;

  // Out of it.

  /// What is sent from here on waits for what compute has been given.
  void join();
  /// On out. `to` must stay until a mark taken behind it has passed.
  void send(const Tensor& from, std::span<std::byte> to);
  /// Whether the lane itself keeps the tensor's memory while it is being sent.
  bool keeps(const Tensor& tensor) const;
  /// `joined`: everything in compute that it shall cover has been joined.
  Mark mark(bool joined) noexcept;
  bool passed(Mark& mark) noexcept;
  void wait(Mark& mark) noexcept;
  /// After it has passed: what it kept alive goes.
  void close(Mark mark) noexcept;

  /// Pins memory of this process for good. What cannot be pinned is only copied more slowly, which
  /// is said once.
  void pin(gpu::HostPiece memory, const gpu::PinOptions& options) noexcept;

  /// Resumes those whose point in compute has passed. True if there was one.
  bool resume_waiting();
  bool has_waiting() const { return !waiting_.empty(); }

  // DeviceWork
  bool idle() override;
  void when_idle(std::coroutine_handle<> coroutine, detail::ErrorPtr& failure) override;
  std::unique_ptr<Graph> capture(const std::function<void()>& body) override;
  void launch(Graph& graph) override;

 private:
  class Memory;
  class Storage;
  using Buffers = std::vector<std::unique_ptr<gpu::Buffer>>;
  struct Waiting {
    std::unique_ptr<gpu::Event> event;
    std::coroutine_handle<> coroutine;
    detail::ErrorPtr* failure;
  };

  DeviceLane(gpu::Backend& backend, std::function<void(const Status&)> lost)
      : backend_(backend), lost_(std::move(lost)) {}
  Status open();
  void check(const Status& status) const;
  void require(const Status& status) const;
  std::unique_ptr<gpu::Buffer> allocate(gpu::Stream& stream, std::size_t bytes);
  std::shared_ptr<Storage> make_storage(std::size_t bytes);
  Status copy_arrivals(std::span<Arrival* const> arrivals, gpu::Buffer& to);
  std::unique_ptr<gpu::Event> take_event();
  Status query(gpu::Event& event, bool& done) noexcept;
  void retire(std::unique_ptr<gpu::Buffer> buffer) noexcept;
  Buffers take_retired() noexcept;
  void drain();

  gpu::Backend& backend_;
  const std::function<void(const Status&)> lost_;
  const std::thread::id thread_ = std::this_thread::get_id();
  std::unique_ptr<gpu::Stream> in_;
  std::unique_ptr<gpu::Stream> compute_;
  std::unique_ptr<gpu::Stream> out_;
  std::unique_ptr<gpu::Event> arrived_;              // last recorded in in_
  std::unique_ptr<gpu::Event> computed_;             // last recorded in compute_
  std::vector<std::unique_ptr<gpu::Event>> events_;  // for the next marks
  std::vector<gpu::HostPiece> run_;                  // of bring(); kept for its memory
  std::deque<Waiting> waiting_;                      // in the order of their points
  std::vector<std::unique_ptr<gpu::PinnedRegion>> pins_;
  bool said_unpinned_ = false;
  std::uint64_t marks_ = 0;                               // taken so far
  std::deque<std::pair<std::uint64_t, Buffers>> buried_;  // what nobody needs behind those marks
  std::mutex mutex_;
  Buffers retired_;  // under mutex_; for the next mark
};

/// How long a worker sleeps between two looks at a device that has been busy for `busy`, once it
/// has spun for its time: an eighth of that, so that no answer comes much later than it could, and
/// never less than a sleep costs.
constexpr std::chrono::nanoseconds nap_after(std::chrono::nanoseconds busy) {
  constexpr std::chrono::nanoseconds kShortest = std::chrono::microseconds(20);
  constexpr std::chrono::nanoseconds kLongest = std::chrono::microseconds(500);
  return std::clamp(busy / 8, kShortest, kLongest);
}

}  // namespace forge::replicas
