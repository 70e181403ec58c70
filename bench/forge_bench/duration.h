// Durations, as people write and read them.
#pragma once

#include <chrono>
#include <string>

namespace forge::bench {

/// "1.5us", "10ms", "90s", "5 min", "24h". Throws UsageError naming the option if it is no number with a
/// unit, or more than `most`.
std::chrono::nanoseconds parse_duration(const char* option, const std::string& text,
                                        std::chrono::nanoseconds most);
/// "12.5 ms", "90 s", "5 min", "24 h".
std::string format_seconds(double seconds);

}  // namespace forge::bench
