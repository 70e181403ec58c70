#include "gpu/device_book.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

namespace forge::gpu {
namespace {

std::string count(std::size_t n, const std::string& thing) {
  return std::to_string(n) + " " + thing + (n == 1 ? "" : "s");
}

}  // namespace

DeviceBook::DeviceBook(std::vector<Device> devices, std::string note) : note_(std::move(note)) {
  for (Device& device : devices) places_.push_back({std::move(device)});
}

bool DeviceBook::usable(std::size_t place) const {
  return places_[place].quarantine.empty() &&
         std::none_of(seats_.begin(), seats_.end(), [&](const auto& seat) {
           return seat.second.place == place && seat.second.stuck;
         });
}

std::size_t DeviceBook::holders(std::size_t place) const {
  return static_cast<std::size_t>(std::count_if(
      seats_.begin(), seats_.end(), [&](const auto& seat) { return seat.second.place == place; }));
}

/// Where another seat could be. Of devices that are shared, those with the fewest seats.
std::vector<std::size_t> DeviceBook::candidates(bool share) const {
  std::vector<std::size_t> found;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (std::size_t place = 0; place < places_.size(); ++place) {
    const bool open = std::all_of(seats_.begin(), seats_.end(), [&](const auto& seat) {
      return seat.second.place != place || (share && seat.second.share);
    });
    if (!open || !usable(place) || holders(place) > least) continue;
    if (holders(place) < least) found.clear();
    least = holders(place);
    found.push_back(place);
  }
  return found;
}

/// For a replica that has the seats `near` and needs so many more: on a node where it is already, else on
/// the fullest one that has room for all, else on the emptiest.
std::optional<std::size_t> DeviceBook::choose(const Seats& near, std::size_t needed,
                                              bool share) const {
  const auto open = candidates(share);
  if (open.empty()) return std::nullopt;
  const auto rank = [&](std::size_t place) {
    const int node = places_[place].device.numa_node;
    const bool far = std::none_of(near.begin(), near.end(),
                                  [&](const Seat& seat) { return seat.device.numa_node == node; });
    const auto room = std::count_if(open.begin(), open.end(), [&](std::size_t other) {
      return places_[other].device.numa_node == node;
    });
    const bool cramped = static_cast<std::size_t>(room) < needed;
    return std::tuple(far, cramped, cramped ? -room : room, place);
  };
  return *std::min_element(open.begin(), open.end(),
                           [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
}

Seat DeviceBook::sit(std::size_t place, Holder holder) {
  holder.place = place;
  seats_.emplace(++last_seat_, std::move(holder));
  return {last_seat_, places_[place].device};
}

Result<std::vector<Seats>> DeviceBook::take(const SeatRequest& request) {
  std::vector<Seats> all;
  for (const auto& workers : request.workers) {
    Seats& seats = all.emplace_back();
    for (const std::string& worker : workers) {
      const auto place = choose(seats, workers.size() - seats.size(), request.share);
      if (place) {
        seats.push_back(sit(*place, {0, request.service, worker, request.share}));
        continue;
      }
      for (const Seats& taken : all) {
        for (const Seat& seat : taken) leave(seat.id);
      }
      const std::size_t replicas = request.workers.size();
      const std::size_t wanted = replicas * workers.size();
      const std::string all_alone =
          count(wanted, "device") + " (procs " + std::to_string(workers.size()) +
          " times num_replicas and spares " + std::to_string(replicas) + ")";
      return make_error(insufficient(
          request.service, request.share ? "a device for its workers to share" : all_alone,
          request.share));
    }
  }
  return all;
}

Status DeviceBook::settle(Seats& seats) {
  for (Seat& seat : seats) {
    const auto found = seats_.find(seat.id);
    if (found == seats_.end() || usable(found->second.place)) continue;
    Seats others;
    for (const Seat& other : seats) {
      const auto theirs = seats_.find(other.id);
      if (theirs != seats_.end() && usable(theirs->second.place)) others.push_back(other);
    }
    const Holder& holder = found->second;
    const auto place = choose(others, seats.size() - others.size(), holder.share);
    if (!place) {
      return insufficient(holder.service, "another device for " + holder.worker, holder.share);
    }
    found->second.place = *place;
    seat.device = places_[*place].device;
  }
  return {};
}

void DeviceBook::rename(std::uint64_t seat, const std::string& worker) {
  if (const auto found = seats_.find(seat); found != seats_.end()) found->second.worker = worker;
}

void DeviceBook::leave(std::uint64_t seat) {
  const auto found = seats_.find(seat);
  if (found == seats_.end()) return;
  if (found->second.stuck) {
    found->second.left = true;
  } else {
    seats_.erase(found);
  }
}

void DeviceBook::stuck(std::uint64_t seat) {
  if (const auto found = seats_.find(seat); found != seats_.end()) found->second.stuck = true;
}

void DeviceBook::reaped(std::uint64_t seat) {
  const auto found = seats_.find(seat);
  if (found == seats_.end()) return;
  found->second.stuck = false;
  if (found->second.left) seats_.erase(found);
}

void DeviceBook::started(std::uint64_t seat) {
  if (const auto found = seats_.find(seat); found != seats_.end())
    places_[found->second.place].failures = 0;
}

std::optional<Device> DeviceBook::failed_to_start(std::uint64_t seat, const std::string& why) {
  const auto found = seats_.find(seat);
  if (found == seats_.end()) return std::nullopt;
  Place& place = places_[found->second.place];
  if (++place.failures < kMostStartFailures || !place.quarantine.empty()) return std::nullopt;
  place.quarantine = why;
  return place.device;
}

void DeviceBook::pardon() {
  for (Place& place : places_) {
    place.failures = 0;
    place.quarantine.clear();
  }
}

std::string DeviceBook::describe(std::size_t place) const {
  const Place& it = places_[place];
  std::string text = it.device.uuid + " (" + it.device.model + ") ";
  if (!it.quarantine.empty()) text += "quarantined: " + it.quarantine + "; ";
  std::string who;
  for (const auto& [id, holder] : seats_) {
    if (holder.place != place) continue;
    who += (who.empty() ? "of " : ", ") + holder.worker;
    if (holder.stuck) who += " (killed, and does not end)";
    if (holder.share) who += " (shared)";
  }
  return text + (who.empty() ? "of nobody" : who);
}

Status DeviceBook::insufficient(const std::string& service, const std::string& wanted,
                                bool share) const {
  const std::size_t open = [&] {
    std::size_t n = 0;
    for (std::size_t place = 0; place < places_.size(); ++place)
      n += usable(place) && holders(place) == 0;
    return n;
  }();
  std::string text = "service '" + service + "': with_gpus needs " + wanted + "; this host has " +
                     count(places_.size(), "device") + note_;
  for (std::size_t place = 0; place < places_.size(); ++place)
    text += (place == 0 ? ": " : ", ") + describe(place);
  if (!places_.empty()) text += "; " + std::to_string(open) + " can be had";
  text += "; lower procs, num_replicas or spares, or shut down who has them";
  text += share ? "" : ", or let services share devices (gpu_share)";
  return {ErrorCode::insufficient_gpus, text + ", or leave with_gpus out"};
}

}  // namespace forge::gpu
