// One run: a service started, loaded, perhaps shot at, and shut down, between two probes of the
// floor.
#pragma once

#include <forge/controller.h>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/forge_bench/floor.h"
#include "bench/forge_bench/load.h"
#include "bench/forge_bench/options.h"

namespace forge::bench {

/// The figure of the floor that a run is read against.
struct Yardstick {
  double FloorFigures::*figure;
  const char* name;  ///< as in "2.4 × <name>"
};

/// Round trips against rings, or a futex when both sides sleep; streams against the rings' rate;
/// tensors against the slab.
Yardstick yardstick(const Options& options);

/// The slab that tensors of this load would be without forge: blocks of a payload, or of a batch of
/// them whose rows are filled where it lies. Small payloads are compared with rings and get the usual
/// shape.
SlabShape slab_of(const Options& options);

struct Run {
  LoadResult load;
  std::uint64_t restarts = 0;
  std::uint64_t kills = 0;
  ServiceCounters counters;              ///< what the service survived
  EndpointMetrics metrics;               ///< of what was called, warm-up included
  std::optional<std::uint64_t> copied;   ///< rows that had to be copied into their batch
  std::optional<double> accuracy;        ///< digits: share of the images recognised
  std::optional<FloorFigures> floor;     ///< between the probes before and after; none on one core
  double floor_drift = 0;                ///< of the yardstick's figure, as a share
  std::optional<double> ratio;           ///< to the yardstick
  std::optional<double> ratio_to_rings;  ///< p50 to the bare rings' round trip
  std::string withheld;                  ///< why there are no ratios
};

/// What a run came to in the yardstick's unit: ns, requests/s or GB/s.
double measured(const Options& options, const LoadResult& load);

/// Runs that follow each other share the probe between them.
class Runner {
 public:
  /// `floor` may be null: no ratios then.
  Runner(Floor* floor, double probe_s) : floor_(floor), probe_s_(probe_s) {}

  Run run(const Options& options);
  /// The last probe is too old to be the one before the next run.
  void forget() { last_.reset(); }

 private:
  FloorFigures probe();
  void compare(const Options& options, const FloorFigures& before, const FloorFigures& after,
               Run& run) const;

  Floor* floor_;
  double probe_s_;
  std::optional<FloorFigures> last_;
};

/// Empty if two probes around a run can be trusted; otherwise why not.
std::string unsteady(const FloorFigures& before, const FloorFigures& after,
                     double FloorFigures::*figure);

/// The options of a service that serves this load: room for all that may be outstanding.
forge::Options service_options(const Options& options, const Placement& place);
/// Starts it. Throws UsageError if forge refuses what the command line asks for.
Service start(Controller& controller, const Options& options, const Placement& place);

}  // namespace forge::bench
