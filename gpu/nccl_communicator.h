// One NCCL communicator, made without blocking and got rid of whatever state it is in.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "gpu/nccl_library.h"

namespace forge::gpu {

/// Thread-compatible. NCCL's own rule holds: after a call that returned in_progress, nothing but
/// state() and abort() until state() says otherwise.
class NcclCommunicator {
 public:
  /// `abort_time` is the longest that abort() waits.
  NcclCommunicator(const NcclLibrary& library, std::chrono::nanoseconds abort_time)
      : library_(library), abort_time_(abort_time) {}
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  /// Aborts what was not closed.
  ~NcclCommunicator() { abort(); }

  /// Begins to make it, on device 0 of the calling thread; state() says how that goes on.
  nccl::Code begin(int ranks, const nccl::UniqueId& id, int rank);
  nccl::Code state() const;
  bool exists() const { return handle_ != nullptr; }
  nccl::Communicator* handle() const { return handle_; }

  /// What NCCL says about a code that it gave us.
  std::string explain(nccl::Code code) const;

  /// Ends what runs on the device and frees everything, in a thread of its own. One that does not
  /// come back in time is left behind: false. Another process is what helps then.
  bool abort() noexcept;
  /// In peace: lets the other ranks have what they still read from us, for as long as `go_on`
  /// allows, then frees it. Precondition: state() is success.
  void close(const std::function<bool()>& go_on) noexcept;

 private:
  const NcclLibrary& library_;
  const std::chrono::nanoseconds abort_time_;
  // NCCL may write here until the communicator exists, so it stays where it is.
  nccl::Communicator* handle_ = nullptr;
};

}  // namespace forge::gpu
