#include "bench/forge_bench/gpu_table.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

GpuCheck judged(GpuCheck check, bool met, double value, double limit) {
  check.value = value;
  check.limit = limit;
  check.verdict = met ? Verdict::met : Verdict::missed;
  return check;
}

}  // namespace

GpuCheck at_most(GpuCheck check, double value, double limit) {
  return judged(std::move(check), value <= limit, value, limit);
}

GpuCheck at_least(GpuCheck check, double value, double limit) {
  return judged(std::move(check), value >= limit, value, limit);
}

GpuCheck holds(GpuCheck check, bool met, std::string what) {
  check.measured = std::move(what);
  return judged(std::move(check), met, met ? 1 : 0, 1);
}

GpuCheck left_out(GpuCheck check, std::string why) {
  check.verdict = Verdict::not_measured;
  check.note = std::move(why);
  return check;
}

double relative_error(std::span<const double> values, std::span<const double> expected) {
  if (values.size() != expected.size()) {
    throw std::invalid_argument(std::to_string(values.size()) + " values, but " +
                                std::to_string(expected.size()) + " are expected");
  }
  double off = 0;
  double size = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    off += (values[i] - expected[i]) * (values[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  if (size == 0) return off == 0 ? 0 : std::nan("");
  return std::sqrt(off / size);
}

bool all_met(const std::vector<GpuCheck>& checks) {
  return std::ranges::all_of(checks,
                             [](const GpuCheck& check) { return check.verdict == Verdict::met; });
}

std::string to_text(const std::vector<GpuCheck>& checks) {
  std::string out = left("check", 46) + left("target", 24) + left("measured", 16) +
                    left("verdict", 14) + "note\n";
  for (const GpuCheck& check : checks) {
    out += left(check.name, 46) + left(check.target, 24) + left(check.measured, 16) +
           left(to_string(check.verdict), 14) + check.note + "\n";
  }
  return out;
}

nlohmann::ordered_json to_json(const std::vector<GpuCheck>& checks) {
  auto json = nlohmann::ordered_json::array();
  for (const GpuCheck& check : checks) {
    nlohmann::ordered_json row{{"check", check.name},        {"target", check.target},
                               {"measured", check.measured}, {"value", nullptr},
                               {"limit", check.limit},       {"verdict", to_string(check.verdict)},
                               {"note", check.note}};
    if (std::isfinite(check.value)) row["value"] = check.value;
    json.push_back(std::move(row));
  }
  return json;
}

}  // namespace forge::bench
