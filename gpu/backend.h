// Backend: one device as a worker uses it. Streams, events, pinned memory, device memory.
//
// Users call what is checked here once, so implementations only do the work. The shape is that of
// the CUDA runtime: work is put into a stream and runs there in order, while the caller goes on;
// host memory given to it must stay as it is until the stream has come past. A backend never
// allocates host memory for others: it registers memory that is given to it.
//
// Objects keep what they need alive, so they may be dropped in any order. Thread-compatible: one
// thread at a time per backend and all that came from it.
#pragma once

#include <forge/error.h>
#include <forge/result.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "gpu/pin_table.h"

namespace forge::gpu {

struct DeviceInfo {
  int ordinal = -1;  ///< as this process counts CUDA devices; -1: the host itself
  std::string name;
  std::string uuid{};      ///< "GPU-…"; empty for the host itself
  int major = 0;           ///< of the compute capability; 0 where there is no such thing
  int minor = 0;           ///< of the compute capability
  std::size_t memory = 0;  ///< bytes the device has
  /// Memory mapped read-only can be pinned. If not, whoever owns the mapping makes it writable
  /// until it has been pinned.
  bool pins_read_only = false;
};

/// Bytes of device memory.
struct MemoryUse {
  std::size_t used = 0;    ///< in buffers
  std::size_t pooled = 0;  ///< taken from the device and kept for the next buffers
  std::size_t total = 0;   ///< what the device has
};

/// Device memory. Its address is not for the host to read or write. Dropping a buffer is ordered
/// like other work in the stream it came from: work that was put there before still has it.
class Buffer {
 public:
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  virtual ~Buffer();

  std::byte* device_data() const { return data_; }
  std::size_t size() const { return size_; }

 protected:
  Buffer(std::byte* data, std::size_t size) : data_(data), size_(size) {}

 private:
  std::byte* data_;
  std::size_t size_;
};

/// Device memory of somebody else who outlives this, as copies want it: what an actor's own library
/// allocated.
class BorrowedBuffer final : public Buffer {
 public:
  BorrowedBuffer(std::byte* data, std::size_t size) : Buffer(data, size) {}
};

/// A buffer of allocate_shared() as another process of this machine may be told of it. Bytes to be
/// carried as they are; the fields are for backends.
struct IpcHandle {
  std::uint32_t version = 0;  ///< 0: not a handle
  std::uint32_t kind = 0;     ///< which backend can open it
  std::uint64_t process = 0;  ///< a random number of the process that owns the memory
  std::uint64_t size = 0;     ///< bytes of the buffer
  std::uint64_t address = 0;  ///< of the memory in that process
  std::array<std::byte, 64> native{};
};
static_assert(std::is_trivially_copyable_v<IpcHandle> && sizeof(IpcHandle) == 96);

/// A place in a stream that can be asked for, or waited for by host and other streams.
class Event {
 public:
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  virtual ~Event();

  /// Has all work put into the stream before the last record() been done? True if there was none.
  virtual Result<bool> done() = 0;
  virtual Status synchronize() = 0;
  /// The cudaEvent_t; null where there is no such thing.
  virtual void* native() const = 0;

 protected:
  Event() = default;
};

/// Host memory the device reaches directly, until this is dropped. The memory must outlive it.
class PinnedRegion {
 public:
  PinnedRegion(const PinnedRegion&) = delete;
  PinnedRegion& operator=(const PinnedRegion&) = delete;
  virtual ~PinnedRegion();

  HostPiece memory() const { return claim_.memory(); }

 protected:
  /// Its place in the table is free again after what the derived class does to unpin it.
  explicit PinnedRegion(PinTable::Claim claim) : claim_(std::move(claim)) {}

  const PinTable::Claim& claim() const { return claim_; }

 private:
  PinTable::Claim claim_;
};

struct PinOptions {
  bool read_only = false;  ///< the memory is mapped read-only; see DeviceInfo::pins_read_only
  /// A descriptor of the shared memory that is mapped there. Of the processes that pin it, one does
  /// at a time; -1: nobody else pins it.
  int file = -1;
};

/// Work that was captured from a stream, to be put in again as often as wanted. Addresses are
/// those of the capture: buffers and host memory used there must outlive it.
class Graph {
 public:
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  virtual ~Graph();

  /// The cudaGraphExec_t; null where there is no such thing.
  virtual void* native() const = 0;

 protected:
  Graph() = default;
};

/// How a gather is done. `chosen`: as measured on this device when the backend was made.
enum class GatherPath : std::uint8_t { chosen, copies, batched, kernel };

/// Work in order. Errors of work that was put in earlier may show in any later call.
class Stream {
 public:
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream();

  /// Device memory for work in this stream; `bytes` may be 0. Errors: Unavailable with byte counts;
  /// InvalidArgument during a capture.
  Result<std::unique_ptr<Buffer>> allocate(std::size_t bytes);

  /// Host to device, and back. Only pinned host memory makes them asynchronous. Error:
  /// InvalidArgument if the bytes are not all in the buffer; then nothing is copied.
  Status copy_in(Buffer& to, std::size_t offset, HostPiece from);
  Status copy_out(std::span<std::byte> to, const Buffer& from, std::size_t offset);

  /// Device to device. The two places must not overlap.
  Status copy_between(Buffer& to, std::size_t to_offset, const Buffer& from,
                      std::size_t from_offset, std::size_t bytes);

  /// Copies pieces of host memory one behind the other: a batch out of where its elements lie. The
  /// list itself may go when this returns. Pieces that adjoin are one copy. A `path` that the device
  /// or the memory does not have falls back to copies.
  Status gather(Buffer& to, std::size_t offset, std::span<const HostPiece> pieces,
                GatherPath path = GatherPath::chosen);

  /// From here to end_capture(), work is noted instead of done. Not possible meanwhile:
  /// allocate(), record(), wait(), synchronize(), launch(). Error: InvalidArgument if it has begun.
  Status begin_capture();
  /// The capture has ended, whatever this returns. Error: InvalidArgument if none had begun, or
  /// something was called meanwhile that cannot be captured.
  Result<std::unique_ptr<Graph>> end_capture();
  bool capturing() const { return capturing_; }
  Status launch(Graph& graph);

  Status record(Event& event);
  /// Work put in from now on runs after what `event` recorded last.
  Status wait(const Event& event);
  /// Returns when all work has been done.
  Status synchronize();
  /// The cudaStream_t; null where there is no such thing.
  virtual void* native() const = 0;

 protected:
  Stream() = default;

 private:
  virtual Result<std::unique_ptr<Buffer>> do_allocate(std::size_t bytes) = 0;
  // All that is copied lies inside the buffers, and there is something to copy.
  virtual Status do_copy_in(std::byte* to, HostPiece from) = 0;
  virtual Status do_copy_out(std::span<std::byte> to, const std::byte* from) = 0;
  virtual Status do_copy_between(std::byte* to, const std::byte* from, std::size_t bytes) = 0;
  /// Two pieces or more, none of them empty, no two of them adjoining. As it stands here: one copy
  /// after the other, for backends that know nothing better.
  virtual Status do_gather(std::byte* to, std::span<const HostPiece> pieces, GatherPath path);
  virtual Status do_begin_capture() = 0;
  virtual Result<std::unique_ptr<Graph>> do_end_capture() = 0;
  virtual Status do_launch(Graph& graph) = 0;
  virtual Status do_record(Event& event) = 0;
  virtual Status do_wait(const Event& event) = 0;
  virtual Status do_synchronize() = 0;

  Status refuse_while_capturing(const char* what) const;

  bool capturing_ = false;
  std::vector<HostPiece> runs_;  // of gather(); kept, so that it allocates only while it grows
};

class Backend {
 public:
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend();

  virtual const DeviceInfo& device() const = 0;
  virtual MemoryUse memory() const = 0;
  /// False once an error has left the device unusable in this process, which must then end.
  virtual bool healthy() const = 0;

  virtual Result<std::unique_ptr<Stream>> make_stream() = 0;
  virtual Result<std::unique_ptr<Event>> make_event() = 0;

  /// Registers memory. Whole pages are pinned, so regions must not share any. Errors:
  /// InvalidArgument if it is empty or overlaps memory that is pinned; NotSupported if it is
  /// read-only and the device does not take that; Unavailable if the system refuses, or another
  /// process did not finish in time.
  Result<std::unique_ptr<PinnedRegion>> pin(HostPiece memory, const PinOptions& options = {});

  /// Device memory that other processes can open. It waits for the device, so it is for start-up.
  virtual Result<std::unique_ptr<Buffer>> allocate_shared(std::size_t bytes) = 0;
  /// The memory must stay until all who opened it have dropped it. Error: InvalidArgument if it is
  /// not from allocate_shared().
  virtual Result<IpcHandle> export_buffer(const Buffer& buffer) = 0;
  /// The same memory, here. Errors: InvalidArgument if that is no handle of this kind of backend;
  /// Unavailable if its owner has dropped it or ended.
  virtual Result<std::unique_ptr<Buffer>> import_buffer(const IpcHandle& handle) = 0;

 protected:
  Backend() = default;

  /// What is pinned, now and later.
  const std::shared_ptr<PinTable>& pins() const { return pins_; }

 private:
  virtual Result<std::unique_ptr<PinnedRegion>> do_pin(PinTable::Claim claim,
                                                       const PinOptions& options) = 0;

  std::shared_ptr<PinTable> pins_ = std::make_shared<PinTable>();
};

}  // namespace forge::gpu
