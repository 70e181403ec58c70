// NcclGroup: collectives on device memory between the ranks of one replica, by NCCL.
//
// NCCL hangs where ranks differ or one is dead, so nothing is left to it that ranks can find out
// in their shared memory group first. A collective is
//   1  one step of that group, in which all ranks compare what they are about to do, and which
//      communicator they hold;
//   2  if they do not all hold the same one: everybody drops its own, and they make a new one. What
//      forbids it (no NCCL, one device twice) is known to all ranks before NCCL is called;
//   3  NCCL's work in the stream, waited for on the host.
// Each wait of 2 and 3 looks at NCCL's own state, at the clock, and at what the other ranks say in
// shared memory. What ends badly aborts this rank's communicator and tells the others, who then do
// the same; the next call of the actor makes a new one. Where even the abort hangs, `stuck` is told.
#pragma once

#include <forge/wait.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "gpu/backend.h"
#include "gpu/device_transport.h"
#include "gpu/group.h"
#include "gpu/nccl_communicator.h"
#include "gpu/nccl_library.h"
#include "gpu/nccl_rendezvous.h"

namespace forge::gpu {

/// What an abort may take, unless steps may take less.
inline constexpr std::chrono::seconds kNcclAbortTime{10};

struct NcclSpec {
  Group& group;    ///< of the same ranks; outlives it, as the stream does
  Stream& stream;  ///< where the actor's work goes
  std::unique_ptr<Event> event;
  std::string uuid;               ///< of this rank's device
  std::uint64_t incarnation = 0;  ///< of the replica
  /// The longest a step waits: for the other ranks, and for work that is in the stream already.
  std::chrono::nanoseconds timeout = std::chrono::seconds(60);
  /// The longest a communicator's end may take that nobody has a complaint about.
  std::chrono::nanoseconds closing_time = std::chrono::seconds(2);
  /// The longest it may take to abort one.
  std::chrono::nanoseconds abort_time = kNcclAbortTime;
  /// Told of what has failed before the communicator is aborted, which may hang on a device that is
  /// lost. Need not return.
  std::function<void(const Status&)> failed = [](const Status&) {};
  /// One could not be aborted in time: its kernels keep the stream, and only the end of this process
  /// ends them. Need not return.
  std::function<void(const Status&)> stuck = [](const Status&) {};
  Wait wait = Wait::adaptive;
  /// Asked when a communicator is wanted, until it succeeds.
  std::function<Result<NcclLibrary>()> load = [] { return load_nccl(); };
};

/// One thread at a time. Collectives throw what those of `group` throw, and
///   Unavailable    a rank has no NCCL, or NCCL failed in this rank or in another
///   NotSupported   NCCL is too old, it cannot reduce that dtype, or the stream is being captured
///   InvalidArgument  two ranks have the same device
class NcclGroup final : public DeviceTransport {
 public:
  explicit NcclGroup(NcclSpec spec) : spec_(std::move(spec)) {}
  ~NcclGroup() override;

  void broadcast(DType dtype, std::span<std::byte> bytes, int root) override;
  void all_reduce(DType dtype, std::span<std::byte> elements, Reduction reduction) override;
  void all_gather(DType dtype, std::span<const std::byte> mine, std::span<std::byte> all) override;

  /// Of the communicator this rank holds, counted by rank 0; 0: none.
  std::uint64_t generation() const { return generation_; }

 private:
  template <class Enqueue>
  void run(const GroupCall& call, Enqueue enqueue);
  void meet();
  Status load();
  Invitation invite();
  void drop() noexcept;
  template <class Finished>
  void await(const std::string& what, Finished finished);
  [[noreturn]] void fail(Status why);

  NcclSpec spec_;
  std::optional<NcclLibrary> library_;
  std::unique_ptr<NcclCommunicator> communicator_;
  std::uint64_t generation_ = 0;
  std::uint64_t last_generation_ = 0;  // rank 0: that it has invited to
};

}  // namespace forge::gpu
