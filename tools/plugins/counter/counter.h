// Counter: the actor that the README and the contract show.
#pragma once

#include <forge/actor.h>

#include <cstdint>
#include <vector>

class Counter : public forge::ForgeActor {
 public:
  explicit Counter(std::int64_t v) : v_(v) {}

  void incr() { ++v_; }
  std::int64_t value() const { return v_; }
  std::int64_t add(std::int64_t amount, std::int64_t multiplier) {
    return v_ += amount * multiplier;
  }
  /// Batched: element i answers element i.
  std::vector<std::int64_t> add_many(std::vector<std::int64_t> amounts);

 private:
  std::int64_t v_;
};
