// Streams of a CUDA device, and what is put into them or comes out of them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "gpu/backend.h"
#include "gpu/cuda/device.h"
#include "gpu/pin_table.h"

namespace forge::gpu::cuda {

/// The stream itself, as long as it or a buffer of it is there.
class StreamHandle {
 public:
  static Result<std::shared_ptr<StreamHandle>> create(std::shared_ptr<Device> device);
  StreamHandle(const StreamHandle&) = delete;
  StreamHandle& operator=(const StreamHandle&) = delete;
  ~StreamHandle();

  cudaStream_t get() const { return stream_; }
  Device& device() const { return *device_; }
  const std::shared_ptr<Device>& shared_device() const { return device_; }

  /// While work is captured, memory is not freed: that would become a part of the graph.
  void begin_capture() { capturing_ = true; }
  void end_capture();
  /// Gives a buffer back, behind all work that was put in.
  void free(std::byte* data) noexcept;

 private:
  StreamHandle(std::shared_ptr<Device> device, cudaStream_t stream)
      : device_(std::move(device)), stream_(stream) {}

  std::shared_ptr<Device> device_;
  cudaStream_t stream_;
  bool capturing_ = false;
  std::vector<std::byte*> dropped_;  // during the capture
};

class CudaStream final : public Stream {
 public:
  CudaStream(std::shared_ptr<StreamHandle> handle, std::shared_ptr<const PinTable> pins)
      : handle_(std::move(handle)), device_(handle_->device()), pins_(std::move(pins)) {}
  ~CudaStream() override;

  void* native() const override { return handle_->get(); }

 private:
  Result<std::unique_ptr<Buffer>> do_allocate(std::size_t bytes) override;
  Status do_copy_in(std::byte* to, HostPiece from) override;
  Status do_copy_out(std::span<std::byte> to, const std::byte* from) override;
  Status do_copy_between(std::byte* to, const std::byte* from, std::size_t bytes) override;
  Status do_gather(std::byte* to, std::span<const HostPiece> pieces, GatherPath path) override;
  Status do_begin_capture() override;
  Result<std::unique_ptr<Graph>> do_end_capture() override;
  Status do_launch(Graph& graph) override;
  Status do_record(Event& event) override;
  Status do_wait(const Event& event) override;
  Status do_synchronize() override;

  // gather.cc
  GatherPath path_for(std::span<const HostPiece> pieces, GatherPath asked) const;
  Status gather_batched(std::byte* to, std::span<const HostPiece> pieces);
  Status gather_by_kernel(std::byte* to, std::span<const HostPiece> pieces);

  std::shared_ptr<StreamHandle> handle_;
  Device& device_;  // the handle's
  std::shared_ptr<const PinTable> pins_;
  // Lists of gather_batched(); kept, so that they allocate only while they grow.
  std::vector<void*> to_;
  std::vector<const void*> from_;
  std::vector<std::size_t> sizes_;
};

class CudaEvent final : public Event {
 public:
  static Result<std::unique_ptr<Event>> create(std::shared_ptr<Device> device);
  ~CudaEvent() override;

  Result<bool> done() override;
  Status synchronize() override;
  void* native() const override { return event_; }

 private:
  CudaEvent(std::shared_ptr<Device> device, cudaEvent_t event)
      : device_(std::move(device)), event_(event) {}

  std::shared_ptr<Device> device_;
  cudaEvent_t event_;
};

class CudaGraph final : public Graph {
 public:
  CudaGraph(std::shared_ptr<Device> device, cudaGraphExec_t graph)
      : device_(std::move(device)), graph_(graph) {}
  ~CudaGraph() override;

  void* native() const override { return graph_; }

 private:
  std::shared_ptr<Device> device_;
  cudaGraphExec_t graph_;
};

}  // namespace forge::gpu::cuda
