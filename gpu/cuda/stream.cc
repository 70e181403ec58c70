#include "gpu/cuda/stream.h"

#include <new>
#include <string>
#include <utility>

namespace forge::gpu::cuda {
namespace {

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(std::shared_ptr<StreamHandle> stream, std::byte* data, std::size_t size)
      : Buffer(data, size), stream_(std::move(stream)) {}
  ~CudaBuffer() override {
    if (device_data() != nullptr) stream_->free(device_data());
  }

 private:
  std::shared_ptr<StreamHandle> stream_;
};

Status foreign(const char* what) {
  return {ErrorCode::invalid_argument, std::string(what) + " is of another backend"};
}

}  // namespace

// ---- the stream itself

Result<std::shared_ptr<StreamHandle>> StreamHandle::create(std::shared_ptr<Device> device) {
  if (Status status = device->enter(); !status.ok()) return make_error(status);
  cudaStream_t stream = nullptr;
  // Not ordered with the default stream, where an actor's library may do something.
  if (Status status = device->check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                                    "making a stream");
      !status.ok()) {
    return make_error(status);
  }
  return std::shared_ptr<StreamHandle>(new StreamHandle(std::move(device), stream));
}

StreamHandle::~StreamHandle() {
  if (!device_->healthy()) return;  // its memory and its streams end with the process
  // What was put in is still done.
  (void)device_->check(cudaStreamDestroy(stream_), "dropping a stream");
}

void StreamHandle::end_capture() {
  capturing_ = false;
  for (std::byte* const data : std::exchange(dropped_, {})) free(data);
}

void StreamHandle::free(std::byte* data) noexcept {
  if (!device_->healthy()) return;
  try {
    if (capturing_) {
      dropped_.push_back(data);
    } else {
      (void)device_->check(cudaFreeAsync(data, stream_), "freeing a buffer");
    }
  } catch (const std::bad_alloc&) {
    // No memory to note or to report it: the buffer is lost until the process ends.
  }
}

CudaStream::~CudaStream() {
  if (!capturing() || !device_.healthy()) return;
  cudaGraph_t graph = nullptr;
  (void)device_.check(cudaStreamEndCapture(handle_->get(), &graph), "dropping a capture");
  if (graph != nullptr) (void)device_.check(cudaGraphDestroy(graph), "dropping a capture");
  handle_->end_capture();
}

// ---- memory and copies

Result<std::unique_ptr<Buffer>> CudaStream::do_allocate(std::size_t bytes) {
  if (Status status = device_.enter(); !status.ok()) return make_error(status);
  if (bytes == 0) return std::make_unique<CudaBuffer>(handle_, nullptr, 0);
  if (bytes > device_.info().memory) return make_error(device_.short_of(bytes));
  void* data = nullptr;
  const auto allocate = [&] {
    return cudaMallocFromPoolAsync(&data, bytes, device_.pool(), handle_->get());
  };
  cudaError_t result = allocate();
  if (result == cudaErrorMemoryAllocation) {
    // What the pool keeps may be of sizes that do not fit.
    (void)device_.check(result, "allocating");
    (void)device_.check(cudaMemPoolTrimTo(device_.pool(), 0), "giving memory back");
    result = allocate();
  }
  Status status = device_.check(result, "allocating a buffer");
  if (result == cudaErrorMemoryAllocation) return make_error(device_.short_of(bytes));
  if (!status.ok()) return make_error(status);
  return std::make_unique<CudaBuffer>(handle_, static_cast<std::byte*>(data), bytes);
}

Status CudaStream::do_copy_in(std::byte* to, HostPiece from) {
  if (!device_.healthy()) return device_.enter();
  while (!from.empty()) {
    const HostPiece run = pins_->first_run(from);
    Status status = device_.check(
        cudaMemcpyAsync(to, run.data(), run.size(), cudaMemcpyHostToDevice, handle_->get()),
        "copying to it");
    if (!status.ok()) return status;
    to += run.size();
    from = from.subspan(run.size());
  }
  return {};
}

Status CudaStream::do_copy_out(std::span<std::byte> to, const std::byte* from) {
  if (!device_.healthy()) return device_.enter();
  while (!to.empty()) {
    const std::size_t size = pins_->first_run(to).size();
    Status status = device_.check(
        cudaMemcpyAsync(to.data(), from, size, cudaMemcpyDeviceToHost, handle_->get()),
        "copying from it");
    if (!status.ok()) return status;
    from += size;
    to = to.subspan(size);
  }
  return {};
}

Status CudaStream::do_copy_between(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (!device_.healthy()) return device_.enter();
  return device_.check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, handle_->get()),
                       "copying on it");
}

// ---- graphs

Status CudaStream::do_begin_capture() {
  if (Status status = device_.enter(); !status.ok()) return status;
  // Other threads of this process may do what they like meanwhile.
  Status status =
      device_.check(cudaStreamBeginCapture(handle_->get(), cudaStreamCaptureModeThreadLocal),
                    "beginning a graph capture");
  if (status.ok()) handle_->begin_capture();
  return status;
}

Result<std::unique_ptr<Graph>> CudaStream::do_end_capture() {
  cudaGraph_t graph = nullptr;
  Status status =
      device_.check(cudaStreamEndCapture(handle_->get(), &graph), "ending a graph capture");
  handle_->end_capture();
  cudaGraphExec_t ready = nullptr;
  if (status.ok()) {
    status = device_.check(cudaGraphInstantiate(&ready, graph, 0), "making a graph ready");
  }
  if (graph != nullptr) (void)device_.check(cudaGraphDestroy(graph), "dropping a capture");
  if (!status.ok()) return make_error(status);
  auto made = std::make_unique<CudaGraph>(handle_->shared_device(), ready);
  // So that the first launch is as fast as the others.
  status = device_.check(cudaGraphUpload(ready, handle_->get()), "bringing a graph to it");
  if (!status.ok()) return make_error(status);
  return made;
}

Status CudaStream::do_launch(Graph& graph) {
  if (Status status = device_.enter(); !status.ok()) return status;
  if (graph.native() == nullptr) return foreign("launching a graph: it");
  return device_.check(
      cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.native()), handle_->get()),
      "launching a graph");
}

CudaGraph::~CudaGraph() {
  if (!device_->healthy()) return;
  (void)device_->check(cudaGraphExecDestroy(graph_), "dropping a graph");
}

// ---- events

Status CudaStream::do_record(Event& event) {
  if (!device_.healthy()) return device_.enter();
  if (event.native() == nullptr) return foreign("recording an event: it");
  return device_.check(cudaEventRecord(static_cast<cudaEvent_t>(event.native()), handle_->get()),
                       "recording an event");
}

Status CudaStream::do_wait(const Event& event) {
  if (!device_.healthy()) return device_.enter();
  if (event.native() == nullptr) return foreign("waiting for an event: it");
  return device_.check(
      cudaStreamWaitEvent(handle_->get(), static_cast<cudaEvent_t>(event.native()), 0),
      "waiting for an event");
}

Status CudaStream::do_synchronize() {
  if (!device_.healthy()) return device_.enter();
  return device_.check(cudaStreamSynchronize(handle_->get()), "waiting for a stream");
}

Result<std::unique_ptr<Event>> CudaEvent::create(std::shared_ptr<Device> device) {
  if (Status status = device->enter(); !status.ok()) return make_error(status);
  cudaEvent_t event = nullptr;
  // Without times, it is the cheapest.
  if (Status status = device->check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
                                    "making an event");
      !status.ok()) {
    return make_error(status);
  }
  return std::unique_ptr<Event>(new CudaEvent(std::move(device), event));
}

CudaEvent::~CudaEvent() {
  if (!device_->healthy()) return;
  (void)device_->check(cudaEventDestroy(event_), "dropping an event");
}

Result<bool> CudaEvent::done() {
  if (!device_->healthy()) return make_error(device_->enter());
  const cudaError_t result = cudaEventQuery(event_);
  if (result == cudaErrorNotReady) {
    cudaGetLastError();  // some versions leave it behind like an error
    return false;
  }
  if (Status status = device_->check(result, "looking at an event"); !status.ok()) {
    return make_error(status);
  }
  return true;
}

Status CudaEvent::synchronize() {
  if (!device_->healthy()) return device_->enter();
  return device_->check(cudaEventSynchronize(event_), "waiting for an event");
}

}  // namespace forge::gpu::cuda
