// What was thrown, as a person would tell it.
#pragma once

#include <string>

namespace forge::replicas {

struct Thrown {
  std::string type;  ///< as it is written in C++
  std::string text;  ///< what it says, and then what each exception nested in it says
};

/// Of the exception that is being handled; only in a catch block.
Thrown current_thrown();

}  // namespace forge::replicas
