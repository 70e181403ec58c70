#include "core/cancel.h"

#include <forge/service.h>

#include <map>

#include "core/engine.h"
#include "core/router_scope.h"

namespace forge {
namespace core {
namespace {

struct Registry {
  std::mutex mutex;
  std::uint64_t last = 0;
  std::map<std::uint64_t, std::weak_ptr<CancelState>> sources;
};
Registry& registry() {
  static auto& only = *new Registry;  // never destroyed: sources may live in statics
  return only;
}

}  // namespace

std::shared_ptr<CancelState> CancelState::create() {
  const std::lock_guard lock(registry().mutex);
  const std::uint64_t id = ++registry().last;
  std::shared_ptr<CancelState> state(new CancelState(id));
  registry().sources.emplace(id, state);
  return state;
}

std::shared_ptr<CancelState> CancelState::find(std::uint64_t id) {
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().sources.find(id);
  return found == registry().sources.end() ? nullptr : found->second.lock();
}

CancelState::~CancelState() {
  const std::lock_guard lock(registry().mutex);
  registry().sources.erase(id_);
}

void CancelState::cancel() {
  decltype(calls_) calls;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    calls = std::exchange(calls_, {});
  }
  for (const auto& [weak, request] : calls) {
    if (const auto engine = weak.lock()) engine->cancel(shm::unpacked(request));
  }
}

bool CancelState::cancelled() {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

void CancelState::add(std::weak_ptr<Engine> engine, shm::RequestId request) {
  const std::lock_guard lock(mutex_);
  calls_.emplace(std::move(engine), shm::packed(request));
}

void CancelState::remove(const std::weak_ptr<Engine>& engine, shm::RequestId request) {
  const std::lock_guard lock(mutex_);
  calls_.erase({engine, shm::packed(request)});
}

}  // namespace core

CancelSource::CancelSource() : state_(core::CancelState::create()) {}
CancelToken CancelSource::token() const { return {state_->id()}; }
void CancelSource::cancel() const {
  core::require_no_router();
  state_->cancel();
}

}  // namespace forge
