// Cancelling: a token names a source; a source knows the open calls that were made with its token.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "shm/control_file.h"

namespace forge::core {

class Engine;

/// What a CancelSource and the calls made with its token share. Any thread. Lock order: an engine's
/// lock comes first, so cancel() calls engines without holding its own.
class CancelState {
 public:
  static std::shared_ptr<CancelState> create();
  /// Null: the source is gone, so nobody will ever cancel.
  static std::shared_ptr<CancelState> find(std::uint64_t id);
  ~CancelState();

  std::uint64_t id() const { return id_; }
  void cancel();
  bool cancelled();
  void add(std::weak_ptr<Engine> engine, shm::RequestId request);
  void remove(const std::weak_ptr<Engine>& engine, shm::RequestId request);

 private:
  explicit CancelState(std::uint64_t id) : id_(id) {}
  struct Before {
    bool operator()(const std::pair<std::weak_ptr<Engine>, std::uint64_t>& a,
                    const std::pair<std::weak_ptr<Engine>, std::uint64_t>& b) const {
      if (a.second != b.second) return a.second < b.second;
      return a.first.owner_before(b.first);
    }
  };

  const std::uint64_t id_;
  std::mutex mutex_;
  bool cancelled_ = false;                                                   // under mutex_
  std::set<std::pair<std::weak_ptr<Engine>, std::uint64_t>, Before> calls_;  // under mutex_
};

}  // namespace forge::core
