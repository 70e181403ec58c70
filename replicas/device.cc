#include <forge/actor.h>
#include <forge/device.h>

#include <algorithm>
#include <utility>

namespace forge {

namespace detail {

DeviceWork::Graph::~Graph() = default;

DeviceWork* device_work() { return context().device_work(); }

bool Synchronize::await_ready() {
  work_ = device_work();
  return work_ == nullptr || work_->idle();
}

}  // namespace detail

GraphCache::GraphCache(std::vector<std::size_t> buckets) : buckets_(std::move(buckets)) {
  std::ranges::sort(buckets_);
  if (buckets_.empty() || buckets_.front() == 0) {
    throw InvalidArgument(
        "a forge::GraphCache needs the sizes of batches it is to capture, each 1 or more");
  }
}

std::size_t GraphCache::bucket(std::size_t n) const {
  const auto found = std::ranges::lower_bound(buckets_, n);
  return found == buckets_.end() ? n : *found;
}

void GraphCache::run(std::size_t n, const std::function<void(std::size_t bucket)>& body) {
  detail::DeviceWork* const work = detail::device_work();
  const std::size_t size = bucket(n);
  if (work == nullptr || n > buckets_.back()) return body(size);
  if (const auto found = graphs_.find(size); found != graphs_.end()) {
    return work->launch(*found->second);
  }
  // Libraries load their kernels and take their memory when they are first used, which must not
  // happen inside a capture.
  body(size);
  graphs_.emplace(size, work->capture([&] { body(size); }));
}

}  // namespace forge
