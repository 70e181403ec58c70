// What clients ask, and how they know that an answer is right. One object per client thread.
#pragma once

#include <forge/service.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "bench/forge_bench/options.h"

namespace forge::bench {

/// `size` random bytes. The first kNumberBytes make room for a request's number.
Bytes make_payload(std::size_t size, std::uint64_t seed);

/// An endpoint, once for each session it is called in; at least once. Calls take them in turn.
template <class Signature>
using Callees = std::vector<Endpoint<Signature>>;
template <class Signature>
const Endpoint<Signature>& callee(const Callees<Signature>& callees, std::uint64_t number) {
  return callees.size() == 1 ? callees.front() : callees[number % callees.size()];
}

/// What this client calls: the endpoint, or one for each session that is its own.
template <class Signature>
Callees<Signature> callees(const Options& options, const Service& service, int client) {
  const auto endpoint = service.endpoint<Signature>(target(options).endpoint);
  Callees<Signature> result;
  for (int session = client; session < options.sessions; session += options.clients) {
    result.push_back(endpoint.with({.sess_id = "session " + std::to_string(session)}));
  }
  if (result.empty()) result.push_back(endpoint);
  return result;
}

/// Echo of a byte block, checked byte by byte.
class BytesWork {
 public:
  using Answer = Bytes;
  using Echo = Endpoint<Bytes(Bytes)>;
  BytesWork(Callees<Bytes(Bytes)> echo, std::size_t size, std::uint64_t seed)
      : echo_(std::move(echo)), payload_(make_payload(size, seed)) {}

  Future<Bytes> send(std::uint64_t number);
  bool check(std::uint64_t number, const Bytes& answer) const;

 private:
  Callees<Bytes(Bytes)> echo_;
  Bytes payload_;
};

/// Echo of a tensor: filled by memcpy in the service's arena, read in place where the worker left
/// it.
class TensorWork {
 public:
  using Answer = Tensor;
  using Echo = Endpoint<Tensor(Tensor)>;
  /// `rows`: as a row of the endpoint's next batch.
  TensorWork(const Service& service, Callees<Tensor(Tensor)> echo, bool rows, std::size_t size,
             std::uint64_t seed);

  Future<Tensor> send(std::uint64_t number);
  bool check(std::uint64_t number, const Tensor& answer) const;

 private:
  const Service& service_;
  Callees<Tensor(Tensor)> echo_;
  bool rows_;
  Bytes source_;
  std::uint64_t sum_;  // of the source's words, the number aside
  std::vector<std::int64_t> shape_;
};

/// Numbers to and fro; the answer says which replica it came from.
class LocatedWork {
 public:
  using Answer = std::pair<std::int64_t, int>;
  /// `counts`, by replica, belongs to this client until its thread has ended.
  LocatedWork(Endpoint<Answer(std::int64_t)> located, std::vector<std::uint64_t>& counts)
      : located_(std::move(located)), counts_(counts) {}

  Future<Answer> send(std::uint64_t number) {
    return located_.route(static_cast<std::int64_t>(number));
  }
  bool check(std::uint64_t number, const Answer& answer) const {
    ++counts_.at(static_cast<std::size_t>(answer.second));
    return answer.first == static_cast<std::int64_t>(number);
  }

 private:
  Endpoint<Answer(std::int64_t)> located_;
  std::vector<std::uint64_t>& counts_;
};

/// Held-out images of handwritten digits. The answer is right if it is what the model says in this
/// process; whether the model is right about the image is its accuracy.
class DigitsWork {
 public:
  using Answer = int;
  using Classify = Callees<int(std::vector<float>)>;
  struct Tally {
    std::uint64_t asked = 0;
    std::uint64_t recognised = 0;
  };
  /// `tally` belongs to this client until its thread has ended.
  DigitsWork(Classify classify, Tally& tally);

  Future<int> send(std::uint64_t number);
  bool check(std::uint64_t number, int answer) const;

 private:
  static std::size_t image_of(std::uint64_t number);

  Classify classify_;
  Tally& tally_;
  std::vector<std::vector<float>> images_;
  std::vector<std::uint8_t> expected_;  // by the model here
};

}  // namespace forge::bench
