// Numbers and tables for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace forge::tool {

std::string format_seconds(
    double seconds);                     ///< "451 ns", "63.1 µs", "1.30 ms", "2.00 s"; "-" for 0
std::string format_age(double seconds);  ///< "12 s", "3 m 20 s", "5 h 02 m", "2 d 03 h"
std::string format_rate(double per_second);  ///< "1.96 M/s"
std::string format_bytes(double bytes);      ///< "64 B", "1.0 MiB"
/// What time it was, when CLOCK_MONOTONIC was `at_ns`.
std::int64_t unix_ms_of(std::int64_t at_ns);
std::string format_time(std::int64_t unix_ms, bool date);  ///< "17:03:22.123", in local time

/// Without anything that a terminal would obey; tabs and line ends become blanks.
std::string printable(std::string_view text);
/// The first `width` characters (not bytes: µ is one).
std::string cut(std::string_view text, std::size_t width);

/// Columns as wide as they need, two blanks between them.
class Table {
 public:
  /// A column whose name begins with '>' is aligned to the right.
  explicit Table(const std::vector<std::string>& columns);
  void add(std::vector<std::string> row);
  std::vector<std::string> lines() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;  // the first are the names
};

}  // namespace forge::tool
