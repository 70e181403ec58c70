#include "bench/forge_bench/text.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace forge::bench {
namespace {

// Three significant digits: 4.51, 45.1, 451.
std::string three_digits(double value) {
  return text("%.*f", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value);
}

}  // namespace

std::string text(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  va_list again;
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, format, arguments);
  va_end(arguments);
  std::string result(length > 0 ? static_cast<std::size_t>(length) : 0, '\0');
  std::vsnprintf(result.data(), result.size() + 1, format, again);
  va_end(again);
  return result;
}

std::string with_commas(std::uint64_t value) {
  std::string digits = std::to_string(value);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

std::string format_ns(double ns) {
  if (ns < 999.5) return text("%.0f ns", ns);
  if (ns < 999.5e3) return three_digits(ns / 1e3) + " µs";
  if (ns < 999.5e6) return three_digits(ns / 1e6) + " ms";
  return three_digits(ns / 1e9) + " s";
}

std::string format_rate(double per_second) {
  if (per_second >= 999.5e3) return three_digits(per_second / 1e6) + " M/s";
  if (per_second >= 9995) return three_digits(per_second / 1e3) + " k/s";
  return text("%.0f /s", per_second);
}

std::string format_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  const bool whole = bytes == std::floor(bytes);
  return (whole ? text("%.0f ", bytes) : three_digits(bytes) + " ") + kUnits[unit];
}

std::size_t display_width(const std::string& value) {
  return static_cast<std::size_t>(std::count_if(value.begin(), value.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string right(const std::string& value, std::size_t width) {
  const std::size_t used = display_width(value);
  return std::string(width > used ? width - used : 0, ' ') + value;
}

std::string left(const std::string& value, std::size_t width) {
  const std::size_t used = display_width(value);
  return value + std::string(width > used ? width - used : 0, ' ');
}

}  // namespace forge::bench
