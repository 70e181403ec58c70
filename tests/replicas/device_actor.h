// An actor as one on a GPU looks, over a LateBackend: kernels are what LateStream::put() takes. And
// its endpoints, by number.
#pragma once

#include <forge/device.h>
#include <forge/plugin.h>
#include <forge/task.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/late_device.h"

namespace forge::tests {

using Values = std::vector<std::int64_t>;

struct Nest {
  Tensor first;
  std::vector<std::optional<Tensor>> others;
  std::map<std::string, Tensor> named;
  FORGE_FIELDS(first, others, named);
};

/// What an actor on a GPU looks like, with what LateStream::put() takes for kernels.
class Device : public ForgeActor {
 public:
  std::vector<std::int64_t> devices(Nest nest) {
    std::vector<std::int64_t> all{nest.first.device()};
    for (const auto& other : nest.others) all.push_back(other ? other->device() : -2);
    for (const auto& [name, tensor] : nest.named) all.push_back(tensor.device());
    return all;
  }
  Tensor twice(const Tensor& in) {
    ++calls_;
    Tensor out = context().allocate_device(DType::i64, in.shape());
    put_twice(in.device_data<std::int64_t>(), out.device_data<std::int64_t>(), in.size());
    return out;
  }
  Tensor sums(const Tensor& rows) {
    batches_.push_back(rows.shape()[0]);
    const auto n = static_cast<std::size_t>(rows.shape()[0]);
    const std::size_t width = rows.size() / n;
    Tensor out = context().allocate_device(DType::i64, {rows.shape()[0]});
    put([n, width, in = rows.device_data<std::int64_t>(), to = out.device_data<std::int64_t>()] {
      for (std::size_t i = 0; i < n; ++i)
        to[i] = std::accumulate(in + i * width, in + (i + 1) * width, std::int64_t{0});
    });
    return out;
  }
  std::vector<Tensor> same(std::vector<Tensor> each) { return each; }
  Nest nested(Nest nest) {
    nest.first = twice(nest.first);
    return nest;
  }
  Task<Tensor> twice_later(Tensor in) {
    const std::uint64_t put_before = puts_;
    Tensor out = twice(in);
    co_await synchronize();
    if (ran_ <= put_before) throw std::logic_error("synchronize() returned before the kernel ran");
    co_return out;
  }
  Task<std::vector<std::int64_t>> sums_later(Tensor rows) {
    const Tensor sums_there = sums(rows);
    co_await synchronize();
    const Tensor here = context().to_host(sums_there);
    const auto values = here.span<std::int64_t>();
    co_return Values(values.begin(), values.end());
  }
  void keep(Tensor tensor) { kept_.push_back(std::move(tensor)); }
  std::int64_t kept_sum() {
    std::int64_t total = 0;
    for (const Tensor& tensor : kept_) {
      const Tensor here = context().to_host(tensor);
      for (const std::int64_t value : here.span<std::int64_t>()) total += value;
    }
    return total;
  }
  /// A kernel reads what is dropped while it waits for its turn.
  Tensor drop_kept() {
    const Tensor in = kept_.back();
    Tensor out = twice(in);
    kept_.clear();
    return out;
  }
  Tensor joined(std::vector<Tensor> parts) { return stack(parts); }
  Tensor by_graph(Tensor in) {
    if (staging_.size() == 0) {
      staging_ = context().allocate_device(DType::i64, {8});
      result_ = context().allocate_device(DType::i64, {8});
    }
    const std::size_t n = in.size();
    put([n, from = std::as_const(in).device_data<std::int64_t>(),
         to = staging_.device_data<std::int64_t>()] { std::copy_n(from, n, to); });
    graphs_.run(n, [this](std::size_t bucket) {
      ++bodies_;
      put_twice(staging_.device_data<std::int64_t>(), result_.device_data<std::int64_t>(), bucket);
    });
    Tensor out = context().allocate_device(DType::i64, in.shape());
    put([n, from = result_.device_data<std::int64_t>(), to = out.device_data<std::int64_t>()] {
      std::copy_n(from, n, to);
    });
    return out;
  }
  std::vector<std::int64_t> counts() {
    return {calls_, static_cast<std::int64_t>(most_), bodies_,
            static_cast<std::int64_t>(graphs_.captured())};
  }
  std::vector<std::int64_t> batches() { return batches_; }
  Tensor fails(const Tensor& in) {
    const Tensor out = twice(in);
    throw std::out_of_range("after the kernel");
  }
  Tensor large(std::int64_t count) { return context().allocate_device(DType::i64, {count}); }
  Tensor elsewhere() {
    struct Foreign final : detail::TensorStorage {
      std::int64_t value = 7;
    };
    auto storage = std::make_shared<Foreign>();
    storage->data = reinterpret_cast<std::byte*>(&storage->value);
    storage->size = sizeof(storage->value);
    storage->device = 1;
    return Tensor::adopt(std::move(storage), DType::i64, std::vector<std::int64_t>{1});
  }
  /// Of a library of the actor's own; freed as soon as it is dropped.
  Tensor foreign(std::int64_t value) {
    struct Library final : detail::TensorStorage {
      std::unique_ptr<std::int64_t> value = std::make_unique<std::int64_t>();
    };
    auto storage = std::make_shared<Library>();
    storage->data = reinterpret_cast<std::byte*>(storage->value.get());
    storage->size = sizeof(value);
    storage->device = 0;
    put([to = storage->value.get(), value] { *to = value; });
    return Tensor::adopt(std::move(storage), DType::i64, std::vector<std::int64_t>{1});
  }
  Tensor there_and_back(const Tensor& in) {
    const Tensor host = context().to_host(in);
    return twice(context().to_device(host));
  }
  /// Born in response memory, on the host.
  Tensor on_host(std::int64_t value) {
    Tensor tensor = context().allocate(DType::i64, {1});
    tensor.span<std::int64_t>()[0] = value;
    return tensor;
  }

 private:
  static LateStream& stream() { return *static_cast<LateStream*>(context().stream()); }
  void put(std::function<void()> kernel) {
    ++puts_;
    most_ = std::max(most_, puts_ - ran_);
    stream().put([this, kernel = std::move(kernel)] {
      kernel();
      ++ran_;
    });
  }
  void put_twice(const std::int64_t* from, std::int64_t* to, std::size_t n) {
    put([from, to, n] {
      for (std::size_t i = 0; i < n; ++i) to[i] = 2 * from[i];
    });
  }

  std::int64_t calls_ = 0;
  std::int64_t bodies_ = 0;
  std::uint64_t puts_ = 0;
  std::uint64_t ran_ = 0;
  std::uint64_t most_ = 0;  // kernels that waited at once
  std::vector<std::int64_t> batches_;
  std::vector<Tensor> kept_;
  Tensor staging_;
  Tensor result_;
  GraphCache graphs_{{2, 8}};
};

enum : std::uint16_t {
  kDevices,
  kTwice,
  kSums,
  kSame,
  kNested,
  kTwiceLater,
  kSumsLater,
  kKeep,
  kKeptSum,
  kDropKept,
  kJoined,
  kByGraph,
  kCounts,
  kBatches,
  kFails,
  kLarge,
  kElsewhere,
  kForeign,
  kThereAndBack,
  kOnHost
};

inline void register_device(Module& m) {
  m.actor<Device>("Device")
      .endpoint("devices", &Device::devices)
      .endpoint("twice", &Device::twice)
      .batched_endpoint("sums", &Device::sums, {.batch_size = 8})
      .batched_endpoint("same", &Device::same, {.batch_size = 8})
      .endpoint("nested", &Device::nested)
      .endpoint("twice_later", &Device::twice_later)
      .batched_endpoint("sums_later", &Device::sums_later, {.batch_size = 8})
      .endpoint("keep", &Device::keep)
      .endpoint("kept_sum", &Device::kept_sum)
      .endpoint("drop_kept", &Device::drop_kept)
      .endpoint("joined", &Device::joined)
      .endpoint("by_graph", &Device::by_graph)
      .endpoint("counts", &Device::counts)
      .endpoint("batches", &Device::batches)
      .endpoint("fails", &Device::fails)
      .endpoint("large", &Device::large)
      .endpoint("elsewhere", &Device::elsewhere)
      .endpoint("foreign", &Device::foreign)
      .endpoint("there_and_back", &Device::there_and_back)
      .endpoint("on_host", &Device::on_host);
}

}  // namespace forge::tests
