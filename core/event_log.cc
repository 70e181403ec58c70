#include "core/event_log.h"

#include <sys/eventfd.h>

#include <algorithm>

#include "shm/clock.h"

namespace forge::core {
namespace {
/// Of one event: a thousand must not take more than a few megabytes.
constexpr std::size_t kLongestText = 2000;
}  // namespace

void EventLog::add(Event event) {
  if (event.text.size() > kLongestText) event.text.resize(kLongestText);
  event.at_ns = shm::now_ns();
  const std::lock_guard lock(mutex_);
  event.number = ++last_;
  events_.push_back(std::move(event));
  if (events_.size() > kKept) events_.pop_front();
  if (bell_ >= 0) (void)!::eventfd_write(bell_, 1);
}

std::vector<Event> EventLog::since(std::uint64_t after, std::size_t most) const {
  const std::lock_guard lock(mutex_);
  const std::uint64_t first = last_ - events_.size();  // the number before the oldest
  const std::uint64_t skip =
      std::min<std::uint64_t>(after > first ? after - first : 0, events_.size());
  const auto begin = events_.begin() + static_cast<std::ptrdiff_t>(skip);
  const auto count = std::min<std::size_t>(most, static_cast<std::size_t>(events_.end() - begin));
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

std::uint64_t EventLog::last() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

void EventLog::set_bell(int eventfd) {
  const std::lock_guard lock(mutex_);
  bell_ = eventfd;
}

}  // namespace forge::core
