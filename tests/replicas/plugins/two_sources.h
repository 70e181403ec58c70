// Two source files with a FORGE_PLUGIN each; both in one program, or both in one shared object.
#pragma once

#include <forge/plugin.h>

#include <cstdint>

class FirstHalf : public forge::ForgeActor {
 public:
  std::int64_t one() const { return 1; }
};

class SecondHalf : public forge::ForgeActor {
 public:
  std::int64_t two() const { return 2; }
};
