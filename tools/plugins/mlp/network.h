// Network: the model as one worker runs it, on the host or on its device.
#pragma once

#include <forge/tensor.h>

#include <cstddef>
#include <memory>

#include "tools/plugins/mlp/model.h"

namespace forge::mlp {

class Network {
 public:
  Network() = default;
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;
  virtual ~Network() = default;

  /// `x` is [n, width] of the model's dtype with 1 to kMostRows rows, where the worker put it; what
  /// comes back lies in response memory or on the device.
  virtual Tensor run(const Tensor& x) = 0;

  /// From now on run() fills where answers go with what is no number before it computes them, so that
  /// what it does not write shows.
  void poison(bool on) { poisoned_ = on; }

  /// What the processor spends on putting one batch of `rows` rows to work, in ns: by replaying a
  /// graph, or launch by launch. Throws NotSupported on the host, where work is not put anywhere.
  virtual double submission_ns(std::size_t rows, int repeats, bool graph);

  /// Puts work into the call's stream that writes where nobody may, which ends the worker, and behind
  /// it an answer that will never leave. Throws NotSupported on the host.
  virtual Tensor write_wildly();

 protected:
  bool poisoned_ = false;
};

std::unique_ptr<Network> make_host_network(const Shape& shape);
/// For the worker that calls it: on its device, if it has one and the plugin was built for it.
std::unique_ptr<Network> make_network(const Shape& shape);

/// What the Sweep actor does to a batch: adds 1 to each element, `passes` times, and gives the first
/// kSwept elements of each row.
inline constexpr std::int64_t kSwept = 16;
class Sweeper {
 public:
  Sweeper() = default;
  Sweeper(const Sweeper&) = delete;
  Sweeper& operator=(const Sweeper&) = delete;
  virtual ~Sweeper() = default;

  /// `x` is [n, m] of f32, m at least kSwept and a multiple of 4.
  virtual Tensor sweep(const Tensor& x, int passes) = 0;
};
std::unique_ptr<Sweeper> make_host_sweeper();
std::unique_ptr<Sweeper> make_sweeper();

}  // namespace forge::mlp
