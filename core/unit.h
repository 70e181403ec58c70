// What an engine knows of a replica: the unit stays, its lives (life.h) come and go. Guarded by the
// service's lock.
#pragma once

#include <forge/error.h>
#include <forge/service.h>
#include <forge/tensor.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/life.h"
#include "core/meter.h"
#include "gpu/device_book.h"
#include "replicas/channel.h"
#include "replicas/ledger.h"
#include "replicas/spawner.h"
#include "replicas/supervisor.h"

namespace forge::core {

/// What workers run: the plugin that the service was started with, or one that it was updated to. Lives
/// share it, and with it the arguments of their setup call.
struct Version {
  std::string plugin;  // path; empty: linked-in actors
  std::string build;   // of its file; empty: not known yet
  std::string worker_path;
  Tensor setup;                  // of the setup call: head, then what lies out of band
  std::uint32_t setup_head = 0;  // bytes of the head
  std::vector<bool> offers;      // by endpoint: does it have it as the service says?
};

inline constexpr std::size_t kUnseen = ~std::size_t{0};
using Channels = std::vector<std::shared_ptr<replicas::Channel>>;  // of a replica's ranks

struct Unit {             // one replica, or a spare
  std::uint32_t idx = 0;  // spares count on behind the replicas
  bool spare = false;     // up, and given no calls: its life becomes that of a replica that dies
  bool wanted = true;     // one of those that serve; else it has left, or leaves
  bool arriving = false;  // it was added, and has not been up yet
  ReplicaState state = ReplicaState::uninitialized;
  std::uint64_t incarnation = 0;
  VersionPtr version;                       // of the next life
  LifePtr life = std::make_shared<Life>();  // the last one, or the next, if it is planned
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
