#include "replicas/rank_group.h"

#include <forge/error.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "gpu/backend_loader.h"
#include "gpu/nccl_group.h"
#include "gpu/nccl_library.h"

namespace forge::replicas {
namespace {

/// A replica of one rank has no file; its group copies through a small one of its own.
constexpr std::size_t kOwnFileSize = gpu::Group::file_size(std::size_t{16} * 1024);

bool is_fake(const gpu::Backend& backend) {
  return backend.device().uuid.starts_with(gpu::kFakeDevicePrefix);
}

/// How long a step waits: as the environment says, or else as long as groups do.
std::chrono::nanoseconds timeout_from_environment() {
  const char* const text = std::getenv(kGroupTimeoutVariable);  // NOLINT(concurrency-mt-unsafe)
  if (text == nullptr) return gpu::GroupSpec{}.timeout;
  constexpr double kMost = 1e9;  // so that it can be counted in ns
  double seconds = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, seconds);
  if (error != std::errc() || stop != end || !(seconds > 0) || seconds > kMost) {
    throw InvalidArgument(std::string("forge::context().group(): ") + kGroupTimeoutVariable +
                          " is \"" + text + "\"; give it a number of seconds, such as 300 or 0.5");
  }
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(seconds));
}

Status sent_to_one_rank() {
  return {ErrorCode::invalid_argument,
          "forge::context().group(): this call was sent to one rank alone (choose()); collectives "
          "need all ranks, so use call() or route()"};
}

}  // namespace

Result<std::vector<shm::Segment>> attach_group_files(int first, const shm::WorkerIdentity& worker) {
  std::vector<shm::Segment> files;
  if (worker.procs == 1) return files;
  for (std::uint32_t rank = 0; rank < worker.procs; ++rank) {
    const bool ours = rank == worker.rank;
    auto file = shm::Segment::attach(shm::FileDescriptor(first + static_cast<int>(rank)),
                                     ours ? shm::Access::read_write : shm::Access::read_only);
    if (!file) return file.error_ptr();
    if (file->size() != kGroupFileSize) {
      return make_error(
          {ErrorCode::invalid_argument, "the group file of rank " + std::to_string(rank) + " has " +
                                            std::to_string(file->size()) + " bytes instead of " +
                                            std::to_string(kGroupFileSize) +
                                            "; use library and forge-worker of one build"});
    }
    if (!ours) file->close_fd();  // ours is needed to reserve memory
    files.push_back(std::move(*file));
  }
  return files;
}

RankGroup::RankGroup(std::vector<shm::Segment> files, const shm::WorkerIdentity& worker,
                     std::uint64_t incarnation)
    : files_(std::move(files)), worker_(worker), incarnation_(incarnation) {}

void RankGroup::use_device(GroupDevice device) {
  device_.emplace(std::move(device));
  if (!is_fake(device_->backend)) gpu::keep_nccl_on_this_host();
}

void RankGroup::end(ErrorCode outcome) {
  if (worker_.procs == 1 || call_ == 0) return;
  if (group_) {
    group_->end(outcome);
  } else if (files_.size() == worker_.procs) {  // tests have none
    gpu::Group::end(files_, static_cast<int>(worker_.rank), call_, outcome);
  }
}

forge::Group& RankGroup::get() {
  if (worker_.procs > 1 && call_ == 0) throw_status(sent_to_one_rank());
  if (!group_) {
    make();
    enter();
  }
  if (device_group_) return *device_group_;
  return *group_;
}

void RankGroup::make() {
  const auto timeout = timeout_from_environment();
  if (worker_.procs == 1 && files_.empty()) {
    files_.push_back(shm::Segment::create({.name = "forge:group",
                                           .size = kOwnFileSize,
                                           .reserved = kOwnFileSize,
                                           .writer = shm::Writer::creator})
                         .value());
  }
  shm::Segment& mine = files_.at(worker_.rank);
  if (!mine.reserve(mine.size())) {
    gpu::Group::decline(mine, call_);
    throw Unavailable("forge::context().group(): no shared memory is left for the " +
                      std::to_string(mine.size()) + " bytes that a rank's collectives go through");
  }
  mine.close_fd();
  group_ = gpu::Group::create({.rank = static_cast<int>(worker_.rank),
                               .files = std::move(files_),
                               .incarnation = incarnation_,
                               .timeout = timeout,
                               .wait = static_cast<Wait>(worker_.wait)})
               .value();
  if (device_) add_device(timeout);
}

void RankGroup::add_device(std::chrono::nanoseconds timeout) {
  std::unique_ptr<gpu::DeviceTransport> transport;
  if (is_fake(device_->backend)) {
    transport = std::make_unique<gpu::StagedTransport>(*group_, device_->stream);
  } else {
    transport = std::make_unique<gpu::NcclGroup>(gpu::NcclSpec{
        .group = *group_,
        .stream = device_->stream,
        .event = device_->backend.make_event().value(),
        .uuid = device_->backend.device().uuid,
        .incarnation = incarnation_,
        .timeout = timeout,
        .abort_time = std::min<std::chrono::nanoseconds>(timeout, gpu::kNcclAbortTime),
        .failed = device_->suspect,
        .stuck = device_->lost,
        .wait = static_cast<Wait>(worker_.wait)});
  }
  device_group_ =
      std::make_unique<gpu::DeviceGroup>(*group_, std::move(transport), device_->allocate);
}

void RankGroup::enter() {
  if (worker_.procs == 1) {
    // Nobody could be in another call, but what failed on the device in the last one is over.
    if (device_group_) group_->begin(++calls_);
    return;
  }
  if (call_ != 0) {
    group_->begin(call_);
  } else {
    group_->leave(sent_to_one_rank());  // the actor may have kept the reference
  }
}

}  // namespace forge::replicas
