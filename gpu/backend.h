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

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace forge::gpu {

using HostPiece = std::span<const std::byte>;

struct DeviceInfo {
  int ordinal = -1;  ///< as this process counts CUDA devices; -1: the host itself
  std::string name;
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

  HostPiece memory() const { return memory_; }

 protected:
  explicit PinnedRegion(HostPiece memory) : memory_(memory) {}

 private:
  HostPiece memory_;
};

/// Work in order. Errors of work that was put in earlier may show in any later call.
class Stream {
 public:
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream();

  /// Device memory for work in this stream; `bytes` may be 0. Errors: Unavailable with byte counts.
  virtual Result<std::unique_ptr<Buffer>> allocate(std::size_t bytes) = 0;

  /// Host to device, and back. Only pinned host memory makes them asynchronous. Error:
  /// InvalidArgument if the bytes are not all in the buffer; then nothing is copied.
  Status copy_in(Buffer& to, std::size_t offset, HostPiece from);
  Status copy_out(std::span<std::byte> to, const Buffer& from, std::size_t offset);

  /// Copies pieces of host memory one behind the other: a batch out of where its elements lie. The
  /// list itself may go when this returns.
  Status gather(Buffer& to, std::size_t offset, std::span<const HostPiece> pieces);

  virtual Status record(Event& event) = 0;
  /// Work put in from now on runs after what `event` recorded last.
  virtual Status wait(const Event& event) = 0;
  /// Returns when all work has been done.
  virtual Status synchronize() = 0;
  /// The cudaStream_t; null where there is no such thing.
  virtual void* native() const = 0;

 protected:
  Stream() = default;

 private:
  // All that is copied lies inside the buffer, and there is something to copy.
  virtual Status do_copy_in(std::byte* to, HostPiece from) = 0;
  virtual Status do_copy_out(std::span<std::byte> to, const std::byte* from) = 0;
  /// One copy after the other, for backends that know nothing better.
  virtual Status do_gather(std::byte* to, std::span<const HostPiece> pieces);
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

  /// Registers memory. Errors: InvalidArgument if it is empty or overlaps memory that is pinned.
  virtual Result<std::unique_ptr<PinnedRegion>> pin(HostPiece memory) = 0;

 protected:
  Backend() = default;
};

}  // namespace forge::gpu
