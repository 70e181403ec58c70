// The worker: one process, one rank, one actor. Takes requests from its ring in order, runs them,
// answers.
#pragma once

#include <memory>
#include <vector>

#include "gpu/backend.h"
#include "shm/segment.h"

namespace forge::replicas {

/// Is this process meant to be a worker? True if it was started as `program --forge-worker <parent
/// pid>`.
bool wants_worker(int argc, char** argv);

/// Runs the worker on the descriptors the controller handed down (kRequestFd …) and returns the
/// exit status. Only in a process that wants_worker().
int run_worker(int argc, char** argv);

/// The loop itself: serves until a stop request and returns the exit status. Tests run it as a
/// thread. `group_files` of all ranks; none if there is only one. Without a backend it is the host's;
/// with an error in its place the worker does not come up, and its setup call hears of it.
int serve(shm::Segment requests, shm::Segment responses, shm::Segment arena,
          std::vector<shm::Segment> group_files = {},
          Result<std::unique_ptr<gpu::Backend>> backend = nullptr);

/// Exit status of a worker whose device has become unusable (shm::ExitReason::device_lost): an illegal
/// address and its kin, which only the end of the process clears.
inline constexpr int kDeviceLostStatus = 86;

/// Descriptors of a worker, fixed.
inline constexpr int kRequestFd = 3;
inline constexpr int kResponseFd = 4;
inline constexpr int kArenaFd = 5;
inline constexpr int kEventFd = 6;
inline constexpr int kGroupFd = 7;  ///< of rank 0; those of the other ranks follow
inline constexpr const char* kWorkerFlag = "--forge-worker";

}  // namespace forge::replicas
