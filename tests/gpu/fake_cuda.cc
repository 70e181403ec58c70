#include "tests/gpu/fake_cuda.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "gpu/cuda/gather_kernel.h"
#include "gpu/cuda_error.h"

using Work = std::function<void()>;

struct CUstream_st {
  std::deque<Work> queue;
  bool capturing = false;
  std::vector<Work> captured;
};
struct CUevent_st {
  CUstream_st* stream = nullptr;  // where it was recorded; null: nowhere, or long done
};
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

namespace forge::gpu::fake_cuda {
namespace {

constexpr std::uintptr_t kPage = 4096;

struct Allocation {
  std::size_t size;
  bool pooled;
};

struct State {
  Settings settings;
  int calls = 0;
  cudaError_t next = cudaSuccess;
  cudaError_t last = cudaSuccess;
  cudaError_t lost = cudaSuccess;
  std::set<cudaStream_t> streams;
  std::set<cudaEvent_t> events;
  std::set<cudaGraph_t> graphs;
  std::set<cudaGraphExec_t> execs;
  std::map<std::uintptr_t, Allocation> memory;
  std::map<std::uintptr_t, std::size_t> registered;
  std::uint64_t used = 0;
  std::uint64_t reserved = 0;
  std::string broken;
};
State state;

void broke(const std::string& rule) { state.broken += rule + "\n"; }

/// What a call returns: what it is told to, or what came of it. A failure is left behind.
cudaError_t finish(cudaError_t result) {
  if (result != cudaSuccess) state.last = result;
  return result;
}

/// Before a call does anything: must it fail?
cudaError_t begin() {
  ++state.calls;
  if (state.lost != cudaSuccess) return finish(state.lost);
  cudaError_t result = std::exchange(state.next, cudaSuccess);
  if (state.calls == state.settings.fails_at) result = state.settings.error;
  if (ends_the_process(result)) state.lost = result;
  return finish(result);
}

#define BEGIN_CALL() \
  if (const cudaError_t told = begin(); told != cudaSuccess) return told

std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

bool on_device(const void* pointer, std::size_t size) {
  const auto after = state.memory.upper_bound(address(pointer));
  if (after == state.memory.begin()) return false;
  const auto& [begin, allocation] = *std::prev(after);
  return address(pointer) + size <= begin + allocation.size;
}

enum class Host { pageable, pinned, both };

/// Pinned only if it is in one region; both if it is in none and some.
Host kind_of(const void* pointer, std::size_t size) {
  const std::uintptr_t begin = address(pointer);
  for (const auto& [start, length] : state.registered) {
    if (start <= begin && begin + size <= start + length) return Host::pinned;
    if (start < begin + size && begin < start + length) return Host::both;
  }
  return Host::pageable;
}

void drain(cudaStream_t stream) {
  while (!stream->queue.empty()) {
    const Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    work();
  }
}

cudaError_t put(cudaStream_t stream, Work work) {
  if (!state.streams.contains(stream)) return finish(cudaErrorInvalidResourceHandle);
  if (stream->capturing) {
    stream->captured.push_back(std::move(work));
  } else {
    stream->queue.push_back(std::move(work));
  }
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, std::size_t size, bool to_host, bool from_host,
                 cudaStream_t stream) {
  const Host kinds = to_host ? kind_of(to, size) : from_host ? kind_of(from, size) : Host::pinned;
  if ((!to_host && !on_device(to, size)) || (!from_host && !on_device(from, size)) ||
      kinds == Host::both) {
    return finish(cudaErrorInvalidValue);
  }
  if (kinds == Host::pageable && state.streams.contains(stream)) {
    if (stream->capturing) broke("pageable memory in a capture");
    drain(stream);  // staged: it has been read or written when the call returns
    std::memcpy(to, from, size);
    return cudaSuccess;
  }
  return put(stream, [=] {
    if ((!to_host && !on_device(to, size)) || (!from_host && !on_device(from, size))) {
      return broke("a copy after its buffer has gone");
    }
    if ((to_host && kind_of(to, size) != Host::pinned) ||
        (from_host && kind_of(from, size) != Host::pinned)) {
      return broke("a copy after its memory has been unpinned");
    }
    std::memcpy(to, from, size);
  });
}

cudaError_t allocate(void** data, std::size_t size, bool pooled) {
  std::uint64_t taken = state.reserved;
  for (const auto& [begin, allocation] : state.memory) {
    if (!allocation.pooled) taken += allocation.size;
  }
  const std::uint64_t kept = state.reserved - state.used;
  const std::uint64_t more = pooled && size <= kept ? 0 : size;
  if (size > state.settings.memory || taken + more > state.settings.memory) {
    return finish(cudaErrorMemoryAllocation);
  }
  *data = ::operator new (size, std::align_val_t{256});
  std::memset(*data, 0xA5, size);
  state.memory[address(*data)] = {size, pooled};
  if (pooled) {
    state.used += size;
    state.reserved += more;
  }
  return cudaSuccess;
}

cudaError_t release(void* data, bool pooled) {
  const auto found = state.memory.find(address(data));
  if (found == state.memory.end() || found->second.pooled != pooled) {
    return finish(cudaErrorInvalidValue);
  }
  if (pooled) state.used -= found->second.size;
  state.memory.erase(found);
  ::operator delete (data, std::align_val_t{256});
  return cudaSuccess;
}

template <class Handle>
cudaError_t forget(std::set<Handle>& all, Handle handle) {
  if (all.erase(handle) == 0) return finish(cudaErrorInvalidResourceHandle);
  delete handle;
  return cudaSuccess;
}

}  // namespace

void reset(const Settings& settings) {
  for (const auto stream : state.streams) delete stream;
  for (const auto event : state.events) delete event;
  for (const auto graph : state.graphs) delete graph;
  for (const auto exec : state.execs) delete exec;
  for (const auto& [begin, allocation] : state.memory) {
    ::operator delete (reinterpret_cast<void*>(begin), std::align_val_t{256});
  }
  state = State{};
  state.settings = settings;
}

void fail_next(cudaError_t error) { state.next = error; }
int calls() { return state.calls; }
bool lost() { return state.lost != cudaSuccess; }
std::string broken_rules() { return state.broken; }

std::string alive() {
  std::string text;
  for (const auto& [name, count] :
       {std::pair("streams", state.streams.size()), std::pair("events", state.events.size()),
        std::pair("graphs", state.graphs.size()), std::pair("executables", state.execs.size()),
        std::pair("buffers", state.memory.size()),
        std::pair("registrations", state.registered.size())}) {
    if (count > 0) text += std::string(name) + " " + std::to_string(count) + " ";
  }
  return text;
}

}  // namespace forge::gpu::fake_cuda

using namespace forge::gpu::fake_cuda;

// ---- the device

cudaError_t cudaGetLastError() { return std::exchange(state.last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t) { return "a text of CUDA"; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = state.settings.driver;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  BEGIN_CALL();
  *count = state.settings.devices;
  if (state.settings.driver < CUDART_VERSION) return finish(cudaErrorInsufficientDriver);
  return *count == 0 ? finish(cudaErrorNoDevice) : cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  BEGIN_CALL();
  *properties = {};
  std::strcpy(properties->name, "fake CUDA device");
  properties->major = state.settings.major;
  properties->totalGlobalMem = state.settings.memory;
  for (int i = 0; i < 16; ++i) properties->uuid.bytes[i] = static_cast<char>(i + device);
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  BEGIN_CALL();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  BEGIN_CALL();
  *value = attribute == cudaDevAttrMemoryPoolsSupported            ? state.settings.pools
           : attribute == cudaDevAttrHostRegisterReadOnlySupported ? state.settings.read_only
                                                                   : 1;
  return cudaSuccess;
}

// ---- memory

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = state.settings.memory;
  *free = *total - state.reserved;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  BEGIN_CALL();
  *pool = reinterpret_cast<cudaMemPool_t>(&state);
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  BEGIN_CALL();
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void* value) {
  *static_cast<std::uint64_t*>(value) =
      attribute == cudaMemPoolAttrUsedMemCurrent ? state.used : state.reserved;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) {
  BEGIN_CALL();
  state.reserved = state.used;
  return cudaSuccess;
}
cudaError_t cudaMallocFromPoolAsync(void** data, std::size_t size, cudaMemPool_t,
                                    cudaStream_t stream) {
  BEGIN_CALL();
  if (stream->capturing) broke("an allocation in a capture");
  return allocate(data, size, true);
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  BEGIN_CALL();
  if (stream->capturing) broke("a buffer freed in a capture");
  return put(stream, [data] {
    if (release(data, true) != cudaSuccess) broke("a buffer freed twice");
  });
}
cudaError_t cudaMalloc(void** data, std::size_t size) {
  BEGIN_CALL();
  return allocate(data, size, false);
}
cudaError_t cudaFree(void* data) {
  BEGIN_CALL();
  for (const auto stream : state.streams) drain(stream);
  return data == nullptr ? cudaSuccess : release(data, false);
}
cudaError_t cudaHostRegister(void* memory, std::size_t size, unsigned flags) {
  BEGIN_CALL();
  if ((flags & cudaHostRegisterReadOnly) != 0 && !state.settings.takes_read_only) {
    return finish(cudaErrorNotSupported);
  }
  const std::uintptr_t first = address(memory) / kPage;
  const std::uintptr_t last = (address(memory) + size - 1) / kPage;
  for (const auto& [begin, length] : state.registered) {
    if (first <= (begin + length - 1) / kPage && begin / kPage <= last) {
      return finish(cudaErrorHostMemoryAlreadyRegistered);
    }
  }
  state.registered[address(memory)] = size;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* memory) {
  BEGIN_CALL();
  return state.registered.erase(address(memory)) == 0 ? finish(cudaErrorHostMemoryNotRegistered)
                                                      : cudaSuccess;
}

// ---- memory of other processes; only what the same process may do

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* data) {
  BEGIN_CALL();
  std::memcpy(handle, &data, sizeof(data));
  return cudaSuccess;
}
cudaError_t cudaIpcOpenMemHandle(void**, cudaIpcMemHandle_t, unsigned) {
  BEGIN_CALL();
  return finish(cudaErrorDeviceUninitialized);
}
cudaError_t cudaIpcCloseMemHandle(void*) { return finish(cudaErrorInvalidValue); }

// ---- streams

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  BEGIN_CALL();
  if (flags != cudaStreamNonBlocking) broke("a stream that waits for the default stream");
  *stream = *state.streams.insert(new CUstream_st).first;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  BEGIN_CALL();
  if (stream->capturing) broke("a stream destroyed in a capture");
  drain(stream);
  for (const auto event : state.events) {
    if (event->stream == stream) event->stream = nullptr;
  }
  return forget(state.streams, stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  BEGIN_CALL();
  drain(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  BEGIN_CALL();
  const cudaStream_t other = event->stream;
  if (other == nullptr || other == stream) return cudaSuccess;
  return put(stream, [other] { drain(other); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  BEGIN_CALL();
  return copy(to, from, size, kind == cudaMemcpyDeviceToHost, kind == cudaMemcpyHostToDevice,
              stream);
}
#if CUDART_VERSION >= 12080
#if CUDART_VERSION >= 13000
cudaError_t cudaMemcpyBatchAsync(void* const* to, const void* const* from, const std::size_t* sizes,
                                 std::size_t count, cudaMemcpyAttributes* attributes,
                                 std::size_t* first, std::size_t sets, cudaStream_t stream) {
#else
cudaError_t cudaMemcpyBatchAsync(void** to, void** from, std::size_t* sizes, std::size_t count,
                                 cudaMemcpyAttributes* attributes, std::size_t* first,
                                 std::size_t sets, std::size_t*, cudaStream_t stream) {
#endif
  BEGIN_CALL();
  if (stream->capturing) return finish(cudaErrorStreamCaptureUnsupported);
  if (sets != 1 || *first != 0 || attributes->srcAccessOrder != cudaMemcpySrcAccessOrderStream) {
    return finish(cudaErrorInvalidValue);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (const auto result = copy(to[i], from[i], sizes[i], false, true, stream)) return result;
  }
  return cudaSuccess;
}
#endif

// ---- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  BEGIN_CALL();
  if (flags != cudaEventDisableTiming) broke("an event that takes times");
  *event = *state.events.insert(new CUevent_st).first;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  BEGIN_CALL();
  return forget(state.events, event);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  BEGIN_CALL();
  event->stream = stream;
  return cudaSuccess;
}
/// Not ready the first time, if there is anything left to do.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  BEGIN_CALL();
  if (event->stream == nullptr || event->stream->queue.empty()) return cudaSuccess;
  drain(event->stream);
  return finish(cudaErrorNotReady);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  BEGIN_CALL();
  if (event->stream != nullptr) drain(event->stream);
  return cudaSuccess;
}

// ---- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  BEGIN_CALL();
  if (mode != cudaStreamCaptureModeThreadLocal) broke("a capture that stops other threads");
  stream->capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  stream->capturing = false;  // also if it fails
  auto work = std::exchange(stream->captured, {});
  BEGIN_CALL();
  *graph = *state.graphs.insert(new CUgraph_st{std::move(work)}).first;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  BEGIN_CALL();
  *exec = *state.execs.insert(new CUgraphExec_st{graph->work}).first;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  BEGIN_CALL();
  return forget(state.graphs, graph);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  BEGIN_CALL();
  return forget(state.execs, exec);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  BEGIN_CALL();
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  BEGIN_CALL();
  for (const Work& work : exec->work) {
    if (const auto result = put(stream, work)) return result;
  }
  return cudaSuccess;
}

// ---- the kernel, as gather_kernel.cu has it

namespace forge::gpu::cuda {

cudaError_t prepare_gather_kernel() {
  BEGIN_CALL();
  return state.settings.has_kernels ? cudaSuccess : finish(cudaErrorNoKernelImageForDevice);
}

cudaError_t launch_gather_kernel(const GatherPieces& pieces, int count, std::byte* to,
                                 cudaStream_t stream) {
  BEGIN_CALL();
  return put(stream, [pieces, count, to] {  // by value, as kernels take it
    for (int i = 0; i < count; ++i) {
      const std::size_t size = pieces.begin[i + 1] - pieces.begin[i];
      if (kind_of(pieces.from[i], size) == Host::pageable) {
        broke("a kernel that reads memory that is not pinned");
      } else if (!on_device(to + pieces.begin[i], size)) {
        broke("a kernel that writes where nothing is");
      } else {
        std::memcpy(to + pieces.begin[i], pieces.from[i], size);
      }
    }
  });
}

}  // namespace forge::gpu::cuda
