// The group of one worker: which files it lies in, and which call of the actor it is in.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "gpu/backend.h"
#include "gpu/device_group.h"
#include "gpu/group.h"
#include "shm/control_file.h"
#include "shm/segment.h"

namespace forge::replicas {

/// A rank's file of one incarnation. The controller makes it, and reserves the part that others
/// read before its rank has come; the rank reserves the rest, if it ever uses the group.
inline constexpr std::size_t kGroupFileSize = gpu::Group::file_size(std::size_t{256} * 1024);
inline constexpr std::size_t kGroupFileReserved = gpu::kGroupDataOffset;

/// The files of all ranks, as they were handed down on descriptors `first`, `first` + 1, …
Result<std::vector<shm::Segment>> attach_group_files(int first, const shm::WorkerIdentity& worker);

/// In the environment of a worker: for how many seconds a collective waits for the other ranks.
inline constexpr const char* kGroupTimeoutVariable = "FORGE_GROUP_TIMEOUT";

/// What collectives on device tensors need. All of it outlives the group.
struct GroupDevice {
  gpu::Backend& backend;
  gpu::Stream& stream;  ///< the one the actor's work goes into
  gpu::DeviceGroup::Allocate allocate;
  /// Something has failed that may have cost the device. Need not return, nor need `lost`.
  std::function<void(const Status&)> suspect;
  /// Nothing in this process can use the device any more.
  std::function<void(const Status&)> lost;
};

class RankGroup {
 public:
  /// `files` of all ranks; none if there is only one.
  RankGroup(std::vector<shm::Segment> files, const shm::WorkerIdentity& worker,
            std::uint64_t incarnation);

  /// This rank has a device. Called before the actor's code is loaded, because it sets what NCCL
  /// reads from the environment.
  void use_device(GroupDevice device);

  /// A call of the actor begins. `number` grows and is the same in all ranks; 0: it was sent to
  /// this rank alone.
  void begin(std::uint64_t number) {
    call_ = number;
    if (group_) enter();
  }

  /// It ends, and this rank takes no further part in it: the others must not wait for it.
  void end(ErrorCode outcome);
  /// A collective of this call has failed because of another rank.
  bool let_down() const { return group_ && group_->let_down(); }

  /// Made when it is first asked for. Throws InvalidArgument in a call that was sent to this rank
  /// alone or if FORGE_GROUP_TIMEOUT is no number of seconds, and Unavailable if there is no memory.
  forge::Group& get();

 private:
  void make();
  void add_device(std::chrono::nanoseconds timeout);
  void enter();

  std::vector<shm::Segment> files_;  // until the group has them
  const shm::WorkerIdentity worker_;
  const std::uint64_t incarnation_;
  std::uint64_t call_ = 0;
  std::unique_ptr<gpu::Group> group_;
  std::optional<GroupDevice> device_;
  std::unique_ptr<gpu::DeviceGroup> device_group_;  // over group_, if there is a device
  std::uint64_t calls_ = 0;                         // of a group of one rank with a device
};

}  // namespace forge::replicas
