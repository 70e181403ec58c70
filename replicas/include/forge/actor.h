// ForgeActor: the base of every actor, and context(): what an actor can ask about the call it runs.
#pragma once

#include <forge/group.h>
#include <forge/tensor.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace forge {

namespace detail {
class DeviceWork;
DeviceWork* device_work();
}  // namespace detail

/// One instance lives in each rank of a replica. It runs one call at a time, always on the thread
/// that constructed it; while an endpoint that is a forge::Task waits, others run. One that has
/// save() and restore() keeps its sessions over the death of its replica: see snapshot.h.
class ForgeActor {
 public:
  ForgeActor() = default;
  ForgeActor(const ForgeActor&) = delete;
  ForgeActor& operator=(const ForgeActor&) = delete;
  virtual ~ForgeActor();

  /// Heavy start-up: runs once, after the constructor and before the first call. May throw; then
  /// the replica does not come up.
  virtual void setup();
};

/// Where and for whom the current call runs. The worker implements it; actors reach it by
/// `forge::context()`, in endpoints, in setup() and in constructors.
class Context {
 public:
  virtual int rank() const = 0;     ///< of this worker in its replica: 0 … procs-1
  virtual int procs() const = 0;    ///< workers of this replica
  virtual int replica() const = 0;  ///< index of this replica in its service
  virtual std::uint64_t incarnation() const = 0;
  virtual const std::string& sess_id() const = 0;  ///< empty: the call has no session
  virtual int device() const = 0;  ///< CUDA ordinal as this process sees it; -1: none
  /// The cudaStream_t that the call's arguments arrive in and its results leave behind: kernels go
  /// there. It belongs to the worker. NotSupported without a GPU.
  virtual void* stream() const;
  virtual std::size_t batch_size() const = 0;  ///< elements of the current call
  virtual bool cancelled() const = 0;          ///< nobody waits for the answer any more
  /// The ranks of this replica. Throws InvalidArgument in a call that was sent to this rank alone.
  virtual Group& group() const;

  /// A tensor in response memory: returning it copies nothing and freezes it, as route() does with
  /// arguments. From then on span<T>() to write throws InvalidArgument, in whatever copy of the handle;
  /// it may be returned again. Its memory is used for nothing else as long as the actor or anybody who
  /// got it in an answer holds it. Pointers that the actor took before it returned the tensor are its
  /// own affair: what it writes through them is seen by whoever has the answer.
  /// Plain memory if there is no room.
  Tensor allocate(DType dtype, std::span<const std::int64_t> shape) {
    return allocate_response(dtype, shape);
  }
  Tensor allocate(DType dtype, std::initializer_list<std::int64_t> shape) {
    return allocate_response(dtype, {shape.begin(), shape.size()});
  }

  /// A tensor in device memory, ordered in stream(): returning it has it copied out behind the work
  /// there. Not zeroed. Without a device it is plain memory. Throws Unavailable if there is no room.
  Tensor allocate_device(DType dtype, std::span<const std::int64_t> shape) {
    return allocate_on_device(dtype, shape);
  }
  Tensor allocate_device(DType dtype, std::initializer_list<std::int64_t> shape) {
    return allocate_on_device(dtype, {shape.begin(), shape.size()});
  }
  /// The elements in device memory, copied in stream() unless they lie there: leave those of
  /// allocate() as they are until the call is over. Without a device, the tensor itself.
  virtual Tensor to_device(const Tensor& tensor);
  /// The elements in response memory, after waiting for stream(); a tensor of the host itself.
  virtual Tensor to_host(const Tensor& tensor);

 protected:
  virtual ~Context();

 private:
  friend detail::DeviceWork* detail::device_work();
  virtual Tensor allocate_response(DType dtype, std::span<const std::int64_t> shape) = 0;
  virtual Tensor allocate_on_device(DType dtype, std::span<const std::int64_t> shape);
  virtual detail::DeviceWork* device_work();
};

/// Throws InvalidArgument on a thread that runs no actor.
Context& context();

namespace detail {
/// Sets what context() gives on this thread and returns what it was. Null: outside an actor.
Context* set_context(Context* context) noexcept;
}  // namespace detail

}  // namespace forge
