// Kills workers while a load runs.
#pragma once

#include <forge/service.h>
#include <cstdint>
#include <random>
#include <stop_token>
#include <thread>

#include "shm/file_descriptor.h"

namespace forge::bench {

/// SIGKILLs a random worker of the service every `every_ms`, from a thread of its own, until
/// stop().
class Killer {
 public:
  Killer(const Service& service, int every_ms, std::uint64_t seed);
  ~Killer() { stop(); }

  /// How many were killed.
  std::uint64_t stop();

 private:
  void run(const std::stop_token& stopping, int every_ms);
  bool kill_one();

  const Service& service_;
  std::mt19937_64 random_;
  std::uint64_t kills_ = 0;  // the thread's, until it is joined
  std::jthread thread_;
};

/// A pidfd of `pid` if it is a worker of a healthy replica of the service; none otherwise, even if
/// its number has been given away.
shm::FileDescriptor hold_worker(const Service& service, int pid);
/// False if it has been reaped.
bool send_signal(const shm::FileDescriptor& worker, int signal);

/// Sends SIGKILL to `pid` if it is still a worker of the service, and to nobody else even if its
/// number has been given away.
bool kill_worker(const Service& service, int pid);

}  // namespace forge::bench
