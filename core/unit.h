// What an engine knows of a replica: the unit stays, its lives come and go, each with its ranks.
// Guarded by the service's lock.
#pragma once

#include <forge/error.h>
#include <forge/service.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/meter.h"
#include "gpu/device_book.h"
#include "replicas/channel.h"
#include "replicas/ledger.h"
#include "replicas/spawner.h"
#include "replicas/supervisor.h"

namespace forge::core {

struct Payload;

/// What workers run: the plugin that the service was started with, or one that it was updated to.
struct Version {
  std::string plugin;  // path; empty: linked-in actors
  std::string worker_path;
  Payload* setup = nullptr;  // the setup call's; its own as long as it is used
  std::vector<bool> offers;  // by endpoint: does it have it as the service says?
};
using VersionPtr = std::shared_ptr<const Version>;

struct Rank {
  std::shared_ptr<replicas::Channel> channel;
  replicas::Process process;
  bool alive = false;                 // started, or about to be, and not reaped
  std::uint64_t heartbeat = 0;        // as last seen
  std::chrono::nanoseconds silent{};  // how long it has been seen not to change, with work to do
  bool stuck = false;                 // it outlives its SIGKILL
  int stops = 0;                      // times in a row that it was found stopped
  std::uint64_t output = 0;           // its pipes
  gpu::Seat seat = {};                // its device, if it has one
};

inline constexpr std::size_t kUnseen = ~std::size_t{0};
using Channels = std::vector<std::shared_ptr<replicas::Channel>>;  // of a replica's ranks

struct Unit;

struct Life {  // one incarnation of a replica, from before its workers start until all are reaped
  Unit* unit = nullptr;  // whose it is; changes when a spare takes over
  VersionPtr version;
  std::vector<Rank> ranks;
  std::uint64_t lockstep_calls = 0;  // sent to all ranks
  bool came_up = false;
  bool answered = false;  // a call
  bool draining = false;  // it is being replaced: it finishes what it has been sent
  bool fenced = false;    // its ranks are being killed by us
  std::string verdict;    // why we kill it, if we do
  // How it ended:
  Status setup_error;
  std::string first_exit;
  std::string last_moments;  // lines: what it was doing, and where a signal struck
  std::uint32_t failed_rank = 0;
  bool killed_from_outside = false;
  std::uint64_t culprit = 0;  // the request that alone is to blame, packed; 0: none is known
  bool by_itself = false;     // the rank that failed: we had not begun to kill it
  bool device_lost = false;   // by the rank that failed
  bool left = false;          // by itself: an endpoint with restart_on_error has failed
};
using LifePtr = std::shared_ptr<Life>;

struct Unit {             // one replica, or a spare
  std::uint32_t idx = 0;  // spares count on behind the replicas
  bool spare = false;     // up, and given no calls: its life becomes that of a replica that dies
  bool wanted = true;     // one of those that serve; else it has left, or leaves
  bool arriving = false;  // it was added, and has not been up yet
  ReplicaState state = ReplicaState::uninitialized;
  std::uint64_t incarnation = 0;
  VersionPtr version;                       // of the next life
  LifePtr life = std::make_shared<Life>();  // the last one; never null
  Channels prepared;                        // control files of the next one
  gpu::Seats seats;                         // its devices, by rank; empty without with_gpus
  replicas::EntryList queue;                // waiting for this replica
  replicas::EntryList in_flight;            // in push order
  replicas::RestartHistory history;
  std::string failure;   // why it is not there
  std::string rejected;  // why a new version did not come up here
  ReplicaMeter meter;
  std::size_t view = kUnseen;  // its place in healthy_
  bool stale = false;          // what routers see of its load is out of date
  std::size_t load() const { return queue.size() + in_flight.size(); }
};

struct PollMember {
  LifePtr life;
  std::uint32_t rank;
  std::shared_ptr<replicas::Channel> channel;
};
using PollSet = std::vector<PollMember>;

}  // namespace forge::core
