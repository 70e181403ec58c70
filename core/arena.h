// A service's arena: where its request payloads lie. Written by this process alone, mapped
// read-only by all its workers.
#pragma once

#include <forge/result.h>
#include <forge/tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shm/block_pool.h"
#include "shm/control_file.h"
#include "shm/doorbell.h"
#include "shm/return_bin.h"
#include "shm/segment.h"

namespace forge::core {

/// Everything but release_later() needs the service's lock. Tensors into it keep it alive.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  /// `sealed`: workers cannot map it writable. Those with a device must, for a moment, to register it.
  static Result<std::shared_ptr<Arena>> create(const std::string& name, std::size_t bytes,
                                               bool sealed);

  std::optional<std::uint64_t> allocate(std::size_t size);
  void free(std::uint64_t offset) { pool_.free(offset - shm::kArenaBlocksOffset); }
  std::byte* at(std::uint64_t offset) const { return segment_.data() + offset; }
  /// A writable tensor in the arena; empty if there is no room now.
  std::optional<Tensor> allocate_tensor(DType dtype, const std::vector<std::int64_t>& shape,
                                        std::size_t bytes);

  /// The same in a block that has been allocated; it is its own from now on.
  Tensor tensor_at(std::uint64_t block, DType dtype, const std::vector<std::int64_t>& shape,
                   std::size_t bytes);

  /// Row `index` of a tensor [n, …] of the arena: a tensor of its own that adjoins the next row.
  static Tensor row_of(const Tensor& slab, std::size_t index);

  std::size_t size() const { return segment_.size(); }
  std::size_t largest() const { return pool_.largest(); }
  std::size_t used();
  int fd() const { return segment_.fd(); }

  /// `watcher` is called, on any thread, when a tensor has been dropped (ReturnBin::watch).
  void watch(std::function<void()> watcher) { returned_.watch(std::move(watcher)); }

  /// Whom workers ring from now on. Under the lock, or by the thread that has just taken the
  /// poller's role: that one is responsible whatever the word says, so a race with it costs a
  /// needless ring at most.
  void set_poller(shm::Poller poller);
  void mark_cancelled(shm::RequestId id, bool cancelled) {
    shm::mark_cancelled(header(), id, cancelled);
  }

 private:
  struct Storage;
  struct Row;
  explicit Arena(shm::Segment segment);
  shm::ArenaHeader& header() const { return *reinterpret_cast<shm::ArenaHeader*>(segment_.data()); }
  void take_returned();

  shm::Segment segment_;
  shm::BlockPool pool_;
  shm::ReturnBin returned_;
  std::vector<std::uint64_t> returning_;
};

}  // namespace forge::core
