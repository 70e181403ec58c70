// Mlp: a perceptron of any width and depth, to measure serving with as much or as little work per
// byte as wanted. Sweep: next to no work on rows of any length. One source for both plugins: which
// of the factories in network.h it is linked with says where they compute.
#include <forge/plugin.h>

#include <cstdint>
#include <memory>
#include <string>

#include "tools/plugins/mlp/model.h"
#include "tools/plugins/mlp/network.h"
#include "tools/plugins/mlp/serving.h"

namespace forge::mlp {
namespace {

std::string describe(const Tensor& x) {
  std::string text = std::string(to_string(x.dtype())) + " [";
  for (std::size_t i = 0; i < x.shape().size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(x.shape()[i]);
  }
  return text + "]";
}

class Mlp : public ForgeActor {
 public:
  Mlp(std::int64_t width, std::int64_t depth, const std::string& dtype)
      : shape_(make_shape(width, depth, dtype)) {}

  void setup() override { network_ = make_network(shape_); }

  Tensor run(const Tensor& x) {
    const auto width = static_cast<std::int64_t>(shape_.width);
    const bool fits = x.shape().size() == 2 && x.shape()[1] == width && x.shape()[0] >= 1 &&
                      x.shape()[0] <= static_cast<std::int64_t>(kMostRows);
    if (!fits || x.dtype() != shape_.dtype) {
      throw InvalidArgument("rows stacked to " + describe(x) + "; this model takes up to " +
                            std::to_string(kMostRows) + " rows of " + std::to_string(width) + " " +
                            std::string(to_string(shape_.dtype)));
    }
    return network_->run(x);
  }

  void poison(bool on) { network_->poison(on); }

  double submission_ns(std::int64_t rows, int repeats, bool graph) {
    if (rows < 1 || rows > static_cast<std::int64_t>(kMostRows) || repeats < 1) {
      throw InvalidArgument("submission of " + std::to_string(rows) + " rows " +
                            std::to_string(repeats) + " times; use 1 to " +
                            std::to_string(kMostRows) + " rows, at least once");
    }
    return network_->submission_ns(static_cast<std::size_t>(rows), repeats, graph);
  }

  Tensor write_wildly() { return network_->write_wildly(); }

  /// The sum over the ranks of this replica.
  Tensor summed(const Tensor& x) {
    const Tensor here = context().to_host(x);
    Tensor sum = context().device() < 0 ? here.copy() : context().to_device(here);
    context().group().all_reduce(sum, Reduction::sum);
    return sum;
  }

  /// The CUDA ordinal this worker computes on; -1: the host.
  int device() const { return context().device(); }

 private:
  Shape shape_;
  std::unique_ptr<Network> network_;  // set by setup()
};

class Sweep : public ForgeActor {
 public:
  explicit Sweep(int passes) : passes_(passes) {
    if (passes < 1)
      throw InvalidArgument("a sweep of " + std::to_string(passes) + " passes; use 1 or more");
  }

  void setup() override { sweeper_ = make_sweeper(); }

  Tensor run(const Tensor& x) {
    if (x.dtype() != DType::f32 || x.shape().size() != 2 || x.shape()[1] < kSwept ||
        x.shape()[1] % 4 != 0) {
      throw InvalidArgument("rows stacked to " + describe(x) +
                            "; a sweep takes rows of f32, a multiple of 4 and 16 at least");
    }
    return sweeper_->sweep(x, passes_);
  }

 private:
  int passes_;
  std::unique_ptr<Sweeper> sweeper_;  // set by setup()
};

}  // namespace
}  // namespace forge::mlp

FORGE_PLUGIN(m) {
  using namespace forge::mlp;
  m.actor<Mlp, std::int64_t, std::int64_t, std::string>(
       "Mlp", "A perceptron: width, depth, dtype (f32, bf16, f64).")
      .batched_endpoint("run", &Mlp::run, serving())
      .endpoint("poison", &Mlp::poison)
      .endpoint("submission_ns", &Mlp::submission_ns)
      .endpoint("write_wildly", &Mlp::write_wildly)
      .endpoint("summed", &Mlp::summed)
      .endpoint("device", &Mlp::device);
  m.actor<Sweep, int>("Sweep",
                      "Adds 1 to each element, so many times; answers the first 16 of a row.")
      .batched_endpoint("run", &Sweep::run, serving());
}
