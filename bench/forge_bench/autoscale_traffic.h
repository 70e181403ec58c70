// The traffic of a simulation: how many requests come when, recorded or generated.
#pragma once

#include <cstdint>
#include <istream>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "bench/forge_bench/autoscale_options.h"

namespace forge::bench {

/// So many requests per second, taking so long each, from `begin_s` to `end_s`.
struct TrafficPiece {
  double begin_s = 0;
  double end_s = 0;
  double rate = 0;
  double service_s = 0;
};

struct Traffic {
  std::string what;                  ///< for people
  std::vector<TrafficPiece> pieces;  ///< without gaps, the first from 0

  double duration_s() const { return pieces.empty() ? 0 : pieces.back().end_s; }
  double requests() const;  ///< to be expected
  double highest_rate() const;
  /// Steps of the traffic: stretches in which the rate only rises, or only falls.
  int moves() const;
};

/// step: the peak from a quarter on. ramp: rises evenly. diurnal: a wave that is low at midnight.
/// burst: six times a tenth of the time at the peak. sawtooth: six times up slowly, down at once.
Traffic generated(const AutoscaleOptions& options);

/// Lines "seconds,requests_per_second[,service_ms]"; a rate holds until the next line. A first line of
/// names, empty lines and lines that begin with # are skipped. Throws UsageError naming the line.
Traffic recorded(std::istream& in, const std::string& name, double service_s);

/// From the options. Throws UsageError, also if there is more of it than can be simulated.
Traffic traffic_of(const AutoscaleOptions& options);

struct Arrival {
  double at = 0;
  double service_s = 0;
};

/// The same ones for the same seed.
class Arrivals {
 public:
  Arrivals(const Traffic& traffic, bool poisson, std::uint64_t seed);
  std::optional<Arrival> next();

 private:
  double gap();  // to the next one, in requests to be expected

  const Traffic* traffic_;
  bool poisson_;
  std::mt19937_64 random_;
  std::size_t piece_ = 0;
  double at_ = 0;
};

}  // namespace forge::bench
