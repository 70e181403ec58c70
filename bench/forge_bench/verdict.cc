#include "bench/forge_bench/verdict.h"

namespace forge::bench {

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::met:
      return "met";
    case Verdict::missed:
      return "MISSED";
    case Verdict::noisy:
      return "noisy";
    case Verdict::not_measured:
      return "not measured";
  }
  return "?";
}

}  // namespace forge::bench
