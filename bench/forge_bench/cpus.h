// Which cores a thread runs on.
#pragma once

#include <vector>

namespace forge::bench {

/// The cores this thread may run on, in order.
std::vector<int> allowed_cpus();

/// Throws std::runtime_error that names the cores.
void pin_to(const std::vector<int>& cpus);

/// Keeps this thread on one core while it lives; afterwards it runs where it ran before.
class PinnedScope {
 public:
  explicit PinnedScope(int cpu) : before_(allowed_cpus()) { pin_to({cpu}); }
  PinnedScope(const PinnedScope&) = delete;
  PinnedScope& operator=(const PinnedScope&) = delete;
  ~PinnedScope();

 private:
  std::vector<int> before_;
};

}  // namespace forge::bench
