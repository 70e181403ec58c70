// Which devices the service's workers have: "Devices" in ARCHITECTURE.md.
#include <utility>

#include "core/engine.h"
#include "core/host.h"
#include "replicas/worker.h"

namespace forge::core {

/// Before they are started: all of their workers get a device, or none does.
Status Engine::take_seats(const std::vector<Unit*>& units) {
  gpu::SeatRequest request{launch_.name, {}, launch_.options.gpu_share};
  for (const Unit* const unit : units) {
    auto& workers = request.workers.emplace_back();
    for (std::uint32_t rank = 0; rank < procs_; ++rank) workers.push_back(rank_name(*unit, rank));
  }
  auto seats =
      host_->devices().with_book([&](gpu::DeviceBook& book) { return book.take(request); });
  if (!seats) return to_status(seats.error());
  for (std::size_t i = 0; i < units.size(); ++i) units[i]->seats = std::move((*seats)[i]);
  return {};
}

/// Those that are to be there from the beginning; a service without devices for them is refused.
Status Engine::take_first_seats() {
  if (!launch_.options.with_gpus) return {};
  std::vector<Unit*> units = everyone();
  std::erase_if(units, [](const Unit* unit) { return !unit->wanted; });
  return take_seats(units);
}

/// Its last life's workers have all been reaped, or it never had any.
Status Engine::settle_seats(Unit& unit) {
  if (!launch_.options.with_gpus) return {};
  if (unit.seats.empty()) return take_seats({&unit});
  const gpu::Seats before = unit.seats;
  Status status =
      host_->devices().with_book([&](gpu::DeviceBook& book) { return book.settle(unit.seats); });
  for (std::size_t rank = 0; rank < before.size(); ++rank) {
    const gpu::Device& now = unit.seats[rank].device;
    if (now.uuid == before[rank].device.uuid) continue;
    host_->log(LogLevel::warning, "service '" + launch_.name + "': rank " + std::to_string(rank) +
                                      " of " + name_of(unit) + " moves from device " +
                                      before[rank].device.uuid + " to " + now.uuid);
  }
  return status;
}

/// The spare's workers, and with them its devices, become the replica's; those of the dead are left to the
/// spare's next life.
void Engine::swap_seats(Unit& unit, Unit& spare) {
  std::swap(unit.seats, spare.seats);
  for (const Unit* const it : {&unit, &spare}) {
    for (std::uint32_t rank = 0; rank < it->seats.size(); ++rank) {
      host_->devices().with_book(
          [&](gpu::DeviceBook& book) { book.rename(it->seats[rank].id, rank_name(*it, rank)); });
    }
  }
}

/// No worker will be started there again; those that live on are stuck.
void Engine::leave_seats(Unit& unit) {
  for (const gpu::Seat& seat : std::exchange(unit.seats, {}))
    host_->devices().with_book([&](gpu::DeviceBook& book) { book.leave(seat.id); });
}

void Engine::seats_started(const Unit& unit) {
  for (const gpu::Seat& seat : unit.seats)
    host_->devices().with_book([&](gpu::DeviceBook& book) { book.started(seat.id); });
}

/// Of a worker that has been reaped.
bool Engine::lost_device(const Rank& rank, const replicas::ExitInfo& exit) const {
  if (rank.seat.id == 0) return false;
  return rank.channel->exit_reason() == shm::ExitReason::device_lost ||
         (exit.kind == replicas::ExitInfo::Kind::exited &&
          exit.value == replicas::kDeviceLostStatus);
}

/// A start that failed counts against the device if the worker says so, or if it ended by itself before
/// anything of the plugin ran. What a plugin does at start says nothing of the device: else one that
/// crashes would put one device after the other into quarantine.
void Engine::blame_device(const Unit& unit) {
  const Life& life = *unit.life;
  if (life.came_up || !life.by_itself || life.killed_from_outside || unit.seats.empty()) return;
  const Rank& failed = life.ranks[life.failed_rank];
  const bool silent = failed.process.id != 0 && failed.channel->started() == 0 &&
                      failed.channel->exit_reason() == shm::ExitReason::none;
  if (!life.device_lost && !silent) return;
  const auto quarantined = host_->devices().with_book([&](gpu::DeviceBook& book) {
    return book.failed_to_start(failed.seat.id,
                                "workers failed there at start, again and again; the "
                                "last of '" +
                                    launch_.name + "': " + life.first_exit);
  });
  if (!quarantined) return;
  host_->log(LogLevel::error,
             "device " + quarantined->uuid + " (" + quarantined->model + ", " +
                 quarantined->bus_id + ") is quarantined after " +
                 std::to_string(gpu::kMostStartFailures) +
                 " failed starts in a row; the last of service '" + launch_.name +
                 "': " + life.first_exit +
                 "; look at nvidia-smi and the kernel's log, then call restart_replicas()");
}

}  // namespace forge::core
