// Execution: one call of the actor's method, for one request or for a batch of them. It lives from
// the moment the method is entered until all answers have been given, and is what context() shows
// meanwhile. Pooled: a worker has as many as calls run at once.
//
// In a worker with a device it lives on until the device has done what the call put in: its answers
// are written when the method ends, and hand_over() gives them to the ring when it has.
#pragma once

#include <forge/actor.h>
#include <forge/module.h>
#include <forge/task.h>
#include <forge/wire.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpu/backend.h"
#include "replicas/actor_host.h"
#include "replicas/device_lane.h"
#include "replicas/flight.h"
#include "replicas/outbox.h"
#include "replicas/rank_group.h"
#include "replicas/request_source.h"
#include "shm/control_file.h"

namespace forge::replicas {

/// What all executions of a worker share.
struct Workplace {
  const shm::RequestFile& requests;
  const shm::Segment& arena;
  Outbox& outbox;
  detail::Writer& writer;  ///< of whoever encodes right now
  RankGroup& group;
  const gpu::Backend& backend;
  FlightRecorder& flight;
  DeviceLane* lane = nullptr;  ///< null: no device
  ActorHost* host = nullptr;
  /// An answer of that size has found no room: returns when it has been made, or there is none to come.
  std::function<void(std::size_t size)> starve = [](std::size_t) {};

  const shm::ArenaHeader& arena_header() const {
    return *reinterpret_cast<const shm::ArenaHeader*>(arena.data());
  }
};

class Execution final : public Context, private detail::ResultSink, private detail::TensorGate {
 public:
  explicit Execution(const Workplace& place) : place_(place) { add_source(); }
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  /// One of the requests. False: it is not to be run, and has been answered.
  bool accept(const shm::RequestSlot& request);
  bool has_work() const { return !live_.empty(); }
  /// Runs what was accepted. False: it waits; the worker hears of its end by ended().
  bool run();
  /// After the end, before the answers are published.
  void finish();

  bool ended_now() const { return ended_; }

  // With a device, between the end and finish():

  /// Whether the device has done all of it.
  bool complete() noexcept { return !mark_ || place_.lane->passed(*mark_); }
  void wait() noexcept {
    if (mark_) place_.lane->wait(*mark_);
  }
  /// Gives the answers to the ring. Precondition: complete().
  void hand_over();

  /// An endpoint that wants it has failed: the worker is to be replaced.
  bool wants_restart() const { return wants_restart_; }

  // Context
  int rank() const override { return static_cast<int>(identity().rank); }
  int procs() const override { return static_cast<int>(identity().procs); }
  int replica() const override {
    return static_cast<int>(place_.requests.assignment.replica.load(std::memory_order_relaxed));
  }
  std::uint64_t incarnation() const override {
    return place_.requests.assignment.incarnation.load(std::memory_order_relaxed);
  }
  const std::string& sess_id() const override { return sess_id_; }
  int device() const override { return place_.backend.device().ordinal; }
  void* stream() const override;
  Group& group() const override { return place_.group.get(); }
  std::size_t batch_size() const override { return live_.empty() ? 1 : live_.size(); }
  bool cancelled() const override;
  Tensor to_device(const Tensor& tensor) override;
  Tensor to_host(const Tensor& tensor) override;

 private:
  void add_source() { sources_.emplace_back(place_.arena, place_.lane != nullptr); }
  const shm::WorkerIdentity& identity() const { return place_.requests.identity; }
  Tensor allocate_response(DType dtype, std::span<const std::int64_t> shape) override {
    return place_.outbox.answers().allocate(dtype, shape);
  }
  Tensor allocate_on_device(DType dtype, std::span<const std::int64_t> shape) override;
  detail::DeviceWork* device_work() override;

  // TensorGate
  void arrive() override;
  Tensor leave(const Tensor& tensor) override;
  void join_out();
  void end_on_device(ErrorCode code) noexcept;
  void fail_all(const Status& status);

  // ResultSink
  void value(detail::Writer& out) override;
  void error(const Error& error) override;
  void ended() noexcept override;
  shm::ResponseSlot& next_slot();
  void make_room(std::size_t size);
  void stamp();
  bool is_late(const shm::RequestSlot& request) const;

  const Workplace& place_;
  std::vector<shm::RequestSlot> live_;  // those that are run
  std::size_t given_ = 0;               // of them, how many have been answered
  std::vector<shm::ResponseSlot*> answers_;
  std::vector<shm::ResponseSlot> held_;  // with a device: they wait here, outside of the ring
  std::vector<detail::Reader> readers_;  // as many as are live
  std::deque<RequestSource> sources_;    // at least as many; only grows
  std::optional<detail::Invocation> call_;
  std::string sess_id_;
  std::int64_t deadline_ns_ = 0;  // until when somebody waits; 0: no limit
  std::int64_t started_ns_ = 0;   // 0: nobody wants to know
  std::uint64_t flight_ = 0;      // its number
  bool failed_ = false;
  bool ended_ = true;
  bool wants_restart_ = false;

  // With a device.
  std::vector<Arrival*> arrivals_;        // of arrive(); kept for its memory
  std::vector<Tensor> kept_;              // that copies under way read or write
  std::optional<DeviceLane::Mark> mark_;  // behind all of the call
  mutable bool touched_ = false;          // it may have put something in
  bool joined_ = false;                   // out waits for what compute was given
};

}  // namespace forge::replicas
