#include "core/unheard.h"

namespace forge::core {

std::optional<std::string> UnheardErrors::add(const std::string& who, const Error& error,
                                              Time now) {
  const std::lock_guard lock(mutex_);
  const auto it = counts_.try_emplace({who, error.error_code()}).first;
  Count& count = it->second;
  ++count.all;
  count.last = error.what();
  if (count.told != 0 && now - count.told_at < kPause) return std::nullopt;
  count.told_at = now;
  return tell(it->first, count);
}

std::vector<std::string> UnheardErrors::rest() {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> lines;
  for (auto& [kind, count] : counts_) {
    if (count.told != count.all) lines.push_back(tell(kind, count));
  }
  return lines;
}

std::map<std::string, std::uint64_t> UnheardErrors::counts(const std::string& who) const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, std::uint64_t> result;
  for (auto it = counts_.lower_bound({who, ErrorCode::ok});
       it != counts_.end() && it->first.first == who; ++it)
    result.emplace(to_string(it->first.second), it->second.all);
  return result;
}

std::string UnheardErrors::tell(const Kind& kind, Count& count) {
  const std::uint64_t fresh = count.all - count.told;
  count.told = count.all;
  return std::to_string(fresh) + (fresh == 1 ? " error" : " errors") + " of " + kind.first +
         " that nobody received (" + std::string(to_string(kind.second)) + ", " +
         std::to_string(count.all) + " in all), the last: " + count.last;
}

}  // namespace forge::core
