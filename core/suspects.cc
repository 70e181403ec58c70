#include "core/suspects.h"

#include <algorithm>

namespace forge::core {
namespace {
/// A call is remembered for so many times as long as it is refused.
constexpr int kRemembered = 10;
}  // namespace

Suspects::Suspect& Suspects::note(std::uint64_t fingerprint, Time now) {
  forget_old(now);
  Suspect suspect{.fingerprint = fingerprint};
  const auto found = std::ranges::find(suspects_, fingerprint, &Suspect::fingerprint);
  if (found != suspects_.end()) {
    suspect = std::move(*found);
    suspects_.erase(found);
  }
  ++suspect.deaths;
  suspect.last = now;
  if (suspects_.size() == kMost) suspects_.pop_front();
  return suspects_.emplace_back(std::move(suspect));
}

const Suspects::Suspect* Suspects::refused(std::uint64_t fingerprint, Time now) {
  forget_old(now);
  const auto found = std::ranges::find(suspects_, fingerprint, &Suspect::fingerprint);
  if (found == suspects_.end() || found->deaths < kMostDeaths) return nullptr;
  return now - found->last < refused_for_ ? &*found : nullptr;
}

void Suspects::forget_old(Time now) {
  while (!suspects_.empty() && now - suspects_.front().last > kRemembered * refused_for_)
    suspects_.pop_front();
}

}  // namespace forge::core
