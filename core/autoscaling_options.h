// What can be said about the options of autoscaling before a service is started.
#pragma once

#include <forge/error.h>
#include <forge/options.h>

#include <string>

namespace forge::core {

/// As autoscaling means them where they are not said: at least one, and as many as there are.
struct ReplicaBounds {
  int min = 1;
  int max = 1;
};
ReplicaBounds replica_bounds(const Options& options);

/// InvalidArgument with a text that begins with `who` and names the option, or ok. The bounds are
/// looked at even if autoscaling is not enabled.
Status check_autoscaling(const std::string& who, const Options& options);

}  // namespace forge::core
