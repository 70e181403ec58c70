// What a bar or a check comes to.
#pragma once

namespace forge::bench {

enum class Verdict { met, missed, noisy, not_measured };
const char* to_string(Verdict verdict);

}  // namespace forge::bench
