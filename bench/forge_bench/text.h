// Numbers for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace forge::bench {

/// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);

std::string with_commas(std::uint64_t value);
std::string format_ns(double ns);            ///< "451 ns", "63.1 µs", "1.30 ms", "2.00 s"
std::string format_rate(double per_second);  ///< "1.96 M/s"
std::string format_bytes(double bytes);      ///< "64 B", "1 MiB"

/// Characters, not bytes: µ is one.
std::size_t display_width(const std::string& value);
/// `value` at the right of a column of `width` characters.
std::string right(const std::string& value, std::size_t width);
std::string left(const std::string& value, std::size_t width);

}  // namespace forge::bench
