#include "bench/forge_bench/autoscale_traffic.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numbers>
#include <sstream>

#include "bench/forge_bench/duration.h"
#include "bench/forge_bench/options.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

constexpr double kMostRequests = 1e8;
constexpr int kRepeats = 6;  // bursts and teeth

/// The rate at `x`, from 0 to 1, of a pattern from `low` to `high`.
double rate_at(const std::string& pattern, double x, double low, double high) {
  const double tooth = x * kRepeats - std::floor(x * kRepeats);
  double share = 0;
  if (pattern == "step") share = x >= 0.25 ? 1 : 0;
  if (pattern == "ramp") share = std::clamp((x - 0.1) / 0.8, 0.0, 1.0);
  if (pattern == "burst") share = tooth >= 0.5 && tooth < 0.6 ? 1 : 0;
  if (pattern == "sawtooth") share = tooth;
  return low + (high - low) * share;
}

double wave_at(double seconds, double low, double high) {
  return low + (high - low) * (1 - std::cos(2 * std::numbers::pi * seconds / 86400)) / 2;
}

/// The numbers of a line; empty if it holds anything else.
std::vector<double> numbers_of(const std::string& line) {
  std::vector<double> numbers;
  std::istringstream in(line);
  for (std::string field; std::getline(in, field, ',');) {
    const auto first = field.find_first_not_of(" \t");
    const auto last = field.find_last_not_of(" \t\r");
    if (first == std::string::npos) return {};
    double value = 0;
    const char* const end = field.data() + last + 1;
    const auto [stop, error] = std::from_chars(field.data() + first, end, value);
    if (error != std::errc() || stop != end || !std::isfinite(value)) return {};
    numbers.push_back(value);
  }
  return numbers;
}

}  // namespace

double Traffic::requests() const {
  double sum = 0;
  for (const TrafficPiece& piece : pieces) sum += piece.rate * (piece.end_s - piece.begin_s);
  return sum;
}

double Traffic::highest_rate() const {
  double highest = 0;
  for (const TrafficPiece& piece : pieces) highest = std::max(highest, piece.rate);
  return highest;
}

int Traffic::moves() const {
  int moves = 0;
  int direction = 0;
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    const double change = pieces[i].rate - pieces[i - 1].rate;
    const int towards = change > 0 ? 1 : change < 0 ? -1 : 0;
    if (towards != 0 && towards != direction) ++moves;
    if (towards != 0) direction = towards;
  }
  return moves;
}

Traffic generated(const AutoscaleOptions& options) {
  Traffic traffic;
  traffic.what = options.pattern +
                 text(" from %g to %g requests/s over ", options.rate, options.peak) +
                 format_seconds(options.duration_s);
  // Fine enough for a curve; steps lie on the border of two pieces.
  const double pieces = 60 * kRepeats * std::ceil(options.duration_s / 3600);
  const double length = options.duration_s / pieces;
  for (double i = 0; i < pieces; ++i) {
    const double rate =
        options.pattern == "diurnal"
            ? wave_at((i + 0.5) * length, options.rate, options.peak)
            : rate_at(options.pattern, (i + 0.5) / pieces, options.rate, options.peak);
    traffic.pieces.push_back({i * length, (i + 1) * length, rate, options.service_s});
  }
  return traffic;
}

Traffic recorded(std::istream& in, const std::string& name, double service_s) {
  Traffic traffic;
  traffic.what = name;
  std::string line;
  double start = 0;
  bool first = true;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos || line.front() == '#') continue;
    const std::vector<double> values = numbers_of(line);
    const bool names = first && values.empty();
    first = false;
    if (names) continue;
    const auto fail = [&](const std::string& what) {
      throw UsageError(name + text(":%d: ", number) + what);
    };
    if (values.size() < 2 || values.size() > 3)
      fail("'" + line.substr(0, line.find('\r')) +
           "' is not seconds,requests_per_second[,service_ms]");
    if (values[1] < 0) fail("the rate is negative");
    if (values.size() == 3 && values[2] <= 0) fail("the service time must be more than 0");
    if (traffic.pieces.empty()) start = values[0];
    const double at = values[0] - start;
    if (!traffic.pieces.empty()) {
      if (at <= traffic.pieces.back().begin_s) fail("time does not go on; sort the lines");
      traffic.pieces.back().end_s = at;
    }
    traffic.pieces.push_back({at, at, values[1], values.size() == 3 ? values[2] / 1e3 : service_s});
  }
  if (traffic.pieces.size() < 2) {
    throw UsageError(
        name + " holds no trace: two lines of seconds,requests_per_second[,service_ms] at least");
  }
  // Nothing says how long the last rate holds; as long as the one before.
  TrafficPiece& last = traffic.pieces.back();
  last.end_s = last.begin_s + (last.begin_s - traffic.pieces[traffic.pieces.size() - 2].begin_s);
  traffic.what += text(", up to %g requests/s over ", traffic.highest_rate()) +
                  format_seconds(traffic.duration_s());
  return traffic;
}

Traffic traffic_of(const AutoscaleOptions& options) {
  Traffic traffic;
  if (options.trace.empty()) {
    traffic = generated(options);
  } else {
    std::ifstream in(options.trace);
    if (!in) {
      throw UsageError("'" + options.trace +
                       "' cannot be read: " + std::generic_category().message(errno));
    }
    traffic = recorded(in, options.trace, options.service_s);
  }
  if (traffic.duration_s() < 60 || traffic.duration_s() > 31 * 86400)
    throw UsageError("the trace covers " + format_seconds(traffic.duration_s()) +
                     "; a minute to 31 days can be simulated");
  if (traffic.requests() > kMostRequests) {
    throw UsageError(
        text("%.3g requests are more than the %g that can be simulated; lower the rates, "
             "or simulate a part",
             traffic.requests(), kMostRequests));
  }
  return traffic;
}

Arrivals::Arrivals(const Traffic& traffic, bool poisson, std::uint64_t seed)
    : traffic_(&traffic), poisson_(poisson), random_(seed) {}

double Arrivals::gap() {
  if (!poisson_) return 1;
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
  return -std::log1p(-uniform);
}

std::optional<Arrival> Arrivals::next() {
  double left = gap();
  while (piece_ < traffic_->pieces.size()) {
    const TrafficPiece& piece = traffic_->pieces[piece_];
    const double expected = (piece.end_s - at_) * piece.rate;
    if (expected > left) {
      at_ += left / piece.rate;
      return Arrival{at_, piece.service_s};
    }
    left -= expected;
    at_ = piece.end_s;
    ++piece_;
  }
  return std::nullopt;
}

}  // namespace forge::bench
