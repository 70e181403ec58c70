// When a batch leaves. Pure: no lock, no clock.
#pragma once

#include <forge/options.h>
#include <forge/wait.h>

#include <chrono>
#include <cstddef>

namespace forge::core {

using BatchTime = std::chrono::steady_clock::time_point;

/// When a batch whose first call came at `first` leaves even if it is not full.
inline BatchTime batch_due(const EndpointOptions& options, BatchTime first) {
  return detail::after(first, options.batch_timeout);
}

/// Does a batch of `collected` calls leave now?
inline bool batch_leaves(const EndpointOptions& options, std::size_t collected, BatchTime first,
                         BatchTime now) {
  return collected >= static_cast<std::size_t>(options.batch_size) ||
         (collected != 0 && now >= batch_due(options, first));
}

}  // namespace forge::core
