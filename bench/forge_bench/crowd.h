// Replicas as a router sees them, without a service: to measure decisions alone.
#pragma once

#include <forge/router.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace forge::bench {

/// What the engine hands to a router, and what it does to it between calls: the chosen replica gains
/// a call, and another one has answered one.
class Crowd {
 public:
  explicit Crowd(std::size_t replicas) : healthy_(replicas) {
    for (std::size_t i = 0; i < replicas; ++i) {
      healthy_[i].idx = static_cast<std::uint32_t>(i);
      healthy_[i].current_load = static_cast<double>(i % 5);
    }
    for (std::size_t i = 0; i < keys_.size(); ++i) keys_[i] = "customer " + std::to_string(i);
  }

  const Replica& choose(Router& router) {
    ++calls_;
    return router.get_replica(healthy_, {.endpoint = "classify",
                                         .sess_id = {},
                                         .session_map = no_sessions_,
                                         .key = keys_[calls_ % keys_.size()]});
  }
  void call(const Replica& chosen) {
    set_load(healthy_[static_cast<std::size_t>(&chosen - healthy_.data())], 1);
    Replica& other = healthy_[calls_ * 7 % healthy_.size()];
    if (other.current_load > 0) set_load(other, -1);
  }

 private:
  static void set_load(Replica& replica, double change) {
    replica.current_load += change;
    replica.active_requests = static_cast<std::size_t>(replica.current_load);
  }

  std::vector<Replica> healthy_;
  const std::map<std::string, std::uint32_t, std::less<>> no_sessions_;
  std::array<std::string, 64> keys_;
  std::size_t calls_ = 0;
};

}  // namespace forge::bench
