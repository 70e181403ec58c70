// Who has which device: the book that the controller keeps for all its services.
//
// Pure: no clock, lock or I/O. A *seat* is one worker's place on a device. A replica keeps its seats from
// one life to the next, so that it comes back where it was, and nobody else gets its devices while it is
// down; they go when the service ends.
//
// Invariants
//   B1  A seat that is not shared is alone on its device.
//   B2  Nobody is placed on a device that is quarantined, or on which a process sits that SIGKILL
//       does not end. Such a process keeps its seat until it has been reaped, whoever has given it up.
//   B3  Only what says something of the device counts against it, and a worker that comes up clears
//       it: see failed_to_start().
#pragma once

#include <forge/error.h>
#include <forge/result.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gpu/devices.h"

namespace forge::gpu {

struct Seat {
  std::uint64_t id = 0;  ///< never used again; 0: none
  Device device;
};
using Seats = std::vector<Seat>;  ///< of a replica, by rank

struct SeatRequest {
  std::string service;
  std::vector<std::vector<std::string>> workers;  ///< names, by replica and rank; equally many each
  bool share = false;  ///< with others who say so: the least used device first
};

/// Failures in a row, at start, that quarantine a device.
inline constexpr int kMostStartFailures = 2;

class DeviceBook {
 public:
  /// `note` says where the list comes from, for messages; may be empty.
  explicit DeviceBook(std::vector<Device> devices, std::string note = {});

  /// Seats for all workers, or for none. Ranks of a replica come on one NUMA node where one has
  /// room. Error: InsufficientGpus, which names what there is and who has it.
  Result<std::vector<Seats>> take(const SeatRequest& request);

  /// Before a replica's next life, with no worker of its own left: seats on devices that may not be used
  /// move to others. Error: InsufficientGpus; seats that had moved by then stay there.
  Status settle(Seats& seats);

  /// Another worker lives there: a spare has taken over.
  void rename(std::uint64_t seat, const std::string& worker);

  /// Its worker has been reaped, or never was. Unless it is stuck: then as soon as it is reaped.
  void leave(std::uint64_t seat);

  /// Its worker outlives a SIGKILL; it has been reaped after all. Unknown seats are ignored.
  void stuck(std::uint64_t seat);
  void reaped(std::uint64_t seat);

  /// Its worker is up.
  void started(std::uint64_t seat);
  /// Its worker ended before it was up, and nothing but the device or its driver can be the reason. The
  /// device that this quarantines, if it does; `why` is what messages say of it from then on.
  std::optional<Device> failed_to_start(std::uint64_t seat, const std::string& why);
  /// Ends all quarantines: somebody has looked after the devices.
  void pardon();

 private:
  struct Place {  // a device
    Device device;
    int failures = 0;             // at start, in a row
    std::string quarantine = {};  // why; empty: it is not
  };
  struct Holder {
    std::size_t place;
    std::string service;
    std::string worker;
    bool share;
    bool stuck = false;
    bool left = false;  // given back, but stuck
  };

  bool usable(std::size_t place) const;
  std::size_t holders(std::size_t place) const;
  std::vector<std::size_t> candidates(bool share) const;
  std::optional<std::size_t> choose(const Seats& near, std::size_t needed, bool share) const;
  Seat sit(std::size_t place, Holder holder);
  Status insufficient(const std::string& service, const std::string& wanted, bool share) const;
  std::string describe(std::size_t place) const;

  std::vector<Place> places_;
  std::string note_;
  std::map<std::uint64_t, Holder> seats_;
  std::uint64_t last_seat_ = 0;
};

}  // namespace forge::gpu
