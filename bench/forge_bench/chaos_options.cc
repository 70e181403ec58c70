#include "bench/forge_bench/chaos_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>

#include "bench/forge_bench/options.h"

namespace forge::bench {
namespace {

using chaos::Fault;

constexpr std::array<const char*, chaos::kFaults> kNames = {"none", "kill", "segv",    "abort",
                                                            "stop", "slow", "corrupt", "forged"};

/// `all` as a number of milliseconds; -1 if it is none.
int milliseconds(const std::string& all) {
  int value = -1;
  const auto [end, error] = std::from_chars(all.data(), all.data() + all.size(), value);
  const bool good = error == std::errc() && end == all.data() + all.size();
  return good && value >= 1 && value <= 3'600'000 ? value : -1;
}

}  // namespace

const char* to_string(Fault fault) { return kNames.at(static_cast<std::size_t>(fault)); }

std::vector<Fault> parse_faults(const std::string& text) {
  std::vector<Fault> faults;
  std::istringstream in(text);
  for (std::string name; std::getline(in, name, ',');) {
    const auto* const found = std::find(kNames.begin() + 1, kNames.end(), name);
    if (found == kNames.end()) {
      throw UsageError("--faults: '" + name +
                       "' is none; there are kill, segv, abort, stop, slow, corrupt and forged");
    }
    const auto fault = static_cast<Fault>(found - kNames.begin());
    if (std::ranges::find(faults, fault) == faults.end()) faults.push_back(fault);
  }
  if (faults.empty()) throw UsageError("--faults: name some, as in kill,segv");
  return faults;
}

std::pair<int, int> parse_every(const std::string& text) {
  const std::size_t comma = text.find(',');
  const int least = milliseconds(text.substr(0, comma));
  const int most = comma == std::string::npos ? least : milliseconds(text.substr(comma + 1));
  if (least < 0 || most < least) {
    throw UsageError(
        "--kill-every: '" + text +
        "' is not a range of milliseconds from 1 to 3600000; write MIN,MAX as in 5,35");
  }
  return {least, most};
}

std::string faults_text(const std::vector<Fault>& faults) {
  std::string out;
  for (const Fault fault : faults) out += (out.empty() ? "" : ",") + std::string(to_string(fault));
  return out;
}

bool has_fault(const ChaosOptions& options, Fault fault) {
  return std::ranges::find(options.faults, fault) != options.faults.end();
}

bool may_fill_up(const ChaosOptions& options) {
  constexpr std::size_t kLargest = std::size_t{64} * 1024;  // a tensor, rounded up
  const forge::Options defaults;
  const auto open =
      static_cast<std::size_t>(options.clients) * static_cast<std::size_t>(options.inflight);
  const auto queue = static_cast<std::size_t>(defaults.max_queued_requests +
                                              defaults.replica_max_concurrent_requests);
  return open > queue || open * kLargest > options.arena / 2;
}

std::string service_text(const ChaosOptions& options) {
  const ChaosOptions defaults;
  std::string out;
  if (options.spares != defaults.spares) out += " --spares " + std::to_string(options.spares);
  if (options.procs != defaults.procs) out += " --procs " + std::to_string(options.procs);
  if (options.arena != defaults.arena) out += " --arena " + std::to_string(options.arena);
  if (options.coroutines) out += " --coroutines";
  return out;
}

bool only_outside_kills(const ChaosOptions& options) {
  return std::ranges::all_of(
      options.faults, [](Fault fault) { return fault == Fault::kill || fault == Fault::slow; });
}

}  // namespace forge::bench
