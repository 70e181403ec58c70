#include "bench/forge_bench/bar.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>

#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

Bar judged(Bar bar, bool met, double value, double limit) {
  bar.value = value;
  bar.limit = limit;
  bar.verdict = met ? Verdict::met : Verdict::missed;
  return bar;
}

}  // namespace

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::met:
      return "met";
    case Verdict::missed:
      return "MISSED";
    case Verdict::noisy:
      return "noisy";
    case Verdict::not_measured:
      return "not measured";
  }
  return "?";
}

Bar at_most(Bar bar, double value, double limit) {
  return judged(std::move(bar), value <= limit, value, limit);
}

Bar at_least(Bar bar, double value, double limit) {
  return judged(std::move(bar), value >= limit, value, limit);
}

Bar holds(Bar bar, bool met, std::string what) {
  bar.measured = std::move(what);
  return judged(std::move(bar), met, met ? 1 : 0, 1);
}

bool all_met(const std::vector<Bar>& bars) {
  return !bars.empty() &&
         std::ranges::all_of(bars, [](const Bar& bar) { return bar.verdict == Verdict::met; });
}

std::string to_text(const std::vector<Bar>& bars, const std::string& kind) {
  std::vector<std::array<std::string, 5>> lines{{kind, "target", "measured", "verdict", "note"}};
  for (const Bar& bar : bars)
    lines.push_back({bar.name, bar.target, bar.measured, to_string(bar.verdict), bar.note});
  std::array<std::size_t, 4> widths{};  // a note is as long as it is
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < widths.size(); ++i)
      widths[i] = std::max(widths[i], display_width(line[i]));
  }
  std::string out;
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < widths.size(); ++i) out += left(line[i], widths[i] + 2);
    out += line.back() + "\n";
  }
  return out;
}

nlohmann::ordered_json to_json(const std::vector<Bar>& bars, const std::string& kind) {
  auto json = nlohmann::ordered_json::array();
  for (const Bar& bar : bars) {
    nlohmann::ordered_json row{{kind, bar.name},           {"target", bar.target},
                               {"measured", bar.measured}, {"value", nullptr},
                               {"limit", bar.limit},       {"verdict", to_string(bar.verdict)},
                               {"note", bar.note}};
    if (std::isfinite(bar.value)) row["value"] = bar.value;
    json.push_back(std::move(row));
  }
  return json;
}

}  // namespace forge::bench
