// Ranks as threads over the test's own memory, so that a thread sanitizer sees every access.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "gpu/group.h"
#include "tests/replicas/plain_memory.h"

namespace forge::tests {

/// One page: the smallest chunk there is.
inline constexpr std::size_t kChunk = shm::kPage;

class Ranks {
 public:
  explicit Ranks(int procs) {
    for (int rank = 0; rank < procs; ++rank) files_.emplace_back(gpu::Group::file_size(kChunk));
  }

  int procs() const { return static_cast<int>(files_.size()); }
  gpu::GroupFile& file(int rank) { return memory(rank).as<gpu::GroupFile>(); }
  PlainMemory& memory(int rank) { return files_[static_cast<std::size_t>(rank)]; }

  /// What a group of that rank is made of. Nothing that is not meant to time out does.
  gpu::GroupSpec spec(int rank) const {
    gpu::GroupSpec spec{.rank = rank, .files = {}, .timeout = std::chrono::hours(1)};
    for (const PlainMemory& file : files_) spec.files.push_back(file.segment());
    return spec;
  }
  std::unique_ptr<gpu::Group> make(int rank) const {
    return gpu::Group::create(spec(rank)).value();
  }

  /// Runs body(group, rank) on one thread per rank, each with a group of its own.
  template <class Body>
  void run(Body body, const std::function<void(gpu::GroupSpec&)>& change = {}) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < procs(); ++rank) {
      threads.emplace_back([&, rank] {
        gpu::GroupSpec mine = spec(rank);
        if (change) change(mine);
        const auto group = gpu::Group::create(std::move(mine)).value();
        body(*group, rank);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  std::deque<PlainMemory> files_;
};

}  // namespace forge::tests
