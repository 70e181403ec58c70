// The model on the host: for tests and as what other backends are held against, not for speed.
#include <forge/actor.h>
#include <forge/error.h>

#include <algorithm>
#include <vector>

#include "tools/plugins/mlp/layers.h"
#include "tools/plugins/mlp/network.h"

namespace forge::mlp {
namespace {

// How Eigen rounds may depend on the number of columns, so a product always has this many; a lone
// row pays for seven empty ones.
constexpr std::size_t kGroup = 8;

template <class Scalar>
class HostNetwork : public Network {
 public:
  explicit HostNetwork(const Shape& shape) : shape_(shape) {
    layers_.reserve(shape.depth);
    for (std::size_t i = 0; i < shape.depth; ++i)
      layers_.emplace_back(make_layer(shape, i), shape.width);
  }

  Tensor run(const Tensor& x) override {
    const std::vector<double> in = to_doubles(context().to_host(x));
    std::vector<double> out(in.size());
    const std::size_t group = kGroup * shape_.width;
    for (std::size_t done = 0; done < in.size(); done += group) {
      const std::size_t count = std::min(group, in.size() - done);
      forward(std::span(in).subspan(done, count), std::span(out).subspan(done, count));
    }
    Tensor answer = context().allocate(x.dtype(), x.shape());
    if (poisoned_) std::ranges::fill(answer.span<std::byte>(), std::byte{0xFF});
    from_doubles(out, answer);
    return answer;
  }

 private:
  void forward(std::span<const double> in, std::span<double> out) const {
    const auto width = static_cast<Eigen::Index>(shape_.width);
    Columns<Scalar> values = Columns<Scalar>::Zero(width, kGroup);
    std::ranges::transform(in, values.data(), [](double x) { return static_cast<Scalar>(x); });
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      values = layers_[i].forward(values, i + 1 < layers_.size());
    }
    std::copy_n(values.data(), out.size(), out.begin());
  }

  Shape shape_;
  std::vector<Weights<Scalar>> layers_;
};

class HostSweeper : public Sweeper {
 public:
  Tensor sweep(const Tensor& x, int passes) override {
    const Tensor in = context().to_host(x);
    const auto rows = in.shape()[0];
    const auto width = static_cast<std::size_t>(in.shape()[1]);
    Tensor answer = context().allocate(DType::f32, {rows, kSwept});
    const auto from = in.span<float>();
    auto to = answer.span<float>();
    for (std::size_t i = 0; i < to.size(); ++i) {
      to[i] = from[i / kSwept * width + i % kSwept] + static_cast<float>(passes);
    }
    return answer;
  }
};

}  // namespace

double Network::submission_ns(std::size_t, int, bool) {
  throw NotSupported(
      "the host computes at once and has nothing to submit; ask a worker with a "
      "device, of a service with_gpus");
}

Tensor Network::write_wildly() {
  throw NotSupported(
      "there is no device here to lose; ask a worker with one, of a service "
      "with_gpus");
}

std::unique_ptr<Network> make_host_network(const Shape& shape) {
  // bf16 is for storing: it is computed in float32, as matrix units do.
  if (shape.dtype == DType::f64) return std::make_unique<HostNetwork<double>>(shape);
  return std::make_unique<HostNetwork<float>>(shape);
}

std::unique_ptr<Sweeper> make_host_sweeper() { return std::make_unique<HostSweeper>(); }

}  // namespace forge::mlp
