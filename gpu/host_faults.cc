#include <algorithm>
#include <charconv>
#include <string>
#include <system_error>

#include "gpu/host_backend.h"

namespace forge::gpu {

Result<HostFaults> parse_host_faults(std::string_view text) {
  HostFaults faults;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(','));
    text.remove_prefix(word.size());
    if (!text.empty()) text.remove_prefix(1);
    const std::string_view name = word.substr(0, word.find('='));
    const std::string_view value = word.substr(std::min(word.size(), name.size() + 1));
    const bool valued = name.size() < word.size();
    bool known = true;
    if (name == "no_memory" && !valued) {
      faults.no_memory = true;
    } else if (name == "busy" && !valued) {
      faults.busy = true;
    } else if (name == "start_fails" && !valued) {
      faults.start_fails = true;
    } else if (name == "device" && !value.empty()) {
      faults.device = value;
    } else if (name == "once" && !value.empty()) {
      faults.once = value;
    } else if (name == "sticky_after") {
      const char* const end = value.data() + value.size();
      const auto [stop, error] = std::from_chars(value.data(), end, faults.sticky_after);
      known = error == std::errc() && stop == end && faults.sticky_after > 0;
    } else {
      known = false;
    }
    if (!known) {
      return make_error({ErrorCode::invalid_argument,
                         "injected faults: \"" + std::string(word) +
                             "\" is not one; there are sticky_after=<copies>, no_memory, busy, "
                             "start_fails, device=<UUID> and once=<file>, separated by commas"});
    }
  }
  return faults;
}

}  // namespace forge::gpu
