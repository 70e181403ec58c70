// An actor is a plain class.
#pragma once

#include <forge/forge.h>

#include <cstdint>

class Counter : public forge::ForgeActor {
 public:
  explicit Counter(std::int64_t v) : v_(v) {}
  void setup() override { ready_ = true; }
  void incr() { ++v_; }
  std::int64_t value() const { return ready_ ? v_ : -1; }
  std::int64_t add(std::int64_t amount, std::int64_t multiplier) {
    return v_ += amount * multiplier;
  }
  void fail() const;

 private:
  bool ready_ = false;
  std::int64_t v_;
};
