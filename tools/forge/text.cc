#include "tools/forge/text.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "shm/clock.h"

namespace forge::tool {
namespace {

/// Three digits that mean something.
std::string three(double value, const char* unit) {
  std::array<char, 64> text{};
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  (void)std::snprintf(text.data(), text.size(), "%.*f %s", decimals, value, unit);
  return text.data();
}

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !continues(c); }));
}

std::string two_parts(std::int64_t first, const char* unit, std::int64_t second,
                      const char* second_unit) {
  std::array<char, 64> text{};
  (void)std::snprintf(text.data(), text.size(), "%lld %s %02lld %s", static_cast<long long>(first),
                      unit, static_cast<long long>(second), second_unit);
  return text.data();
}

}  // namespace

std::string format_seconds(double seconds) {
  if (!(seconds > 0)) return "-";
  if (seconds < 1e-6) return std::to_string(std::lround(seconds * 1e9)) + " ns";
  if (seconds < 1e-3) return three(seconds * 1e6, "µs");
  if (seconds < 1) return three(seconds * 1e3, "ms");
  return three(seconds, "s");
}

std::string format_age(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::clamp(seconds, 0.0, 1e12));
  if (whole < 60) return std::to_string(whole) + " s";
  if (whole < 3600) return two_parts(whole / 60, "m", whole % 60, "s");
  if (whole < 86'400) return two_parts(whole / 3600, "h", whole % 3600 / 60, "m");
  return two_parts(whole / 86'400, "d", whole % 86'400 / 3600, "h");
}

std::string format_rate(double per_second) {
  if (!(per_second > 0)) return "0 /s";
  if (per_second >= 999'500) return three(per_second / 1e6, "M/s");
  if (per_second >= 999.5) return three(per_second / 1e3, "k/s");
  return three(per_second, "/s");
}

std::string format_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  if (unit == 0) return std::to_string(static_cast<std::int64_t>(std::max(bytes, 0.0))) + " B";
  return three(bytes, kUnits[unit]);
}

std::int64_t unix_ms_of(std::int64_t at_ns) {
  using namespace std::chrono;
  const auto now = system_clock::now().time_since_epoch();
  return duration_cast<milliseconds>(now -
                                     nanoseconds(shm::now_ns() - std::max<std::int64_t>(at_ns, 0)))
      .count();
}

std::string format_time(std::int64_t unix_ms, bool date) {
  const time_t seconds = unix_ms / 1000;
  tm local{};
  if (::localtime_r(&seconds, &local) == nullptr) return "?";
  std::array<char, 64> text{};
  const std::size_t size =
      ::strftime(text.data(), text.size(), date ? "%Y-%m-%d %H:%M:%S" : "%H:%M:%S", &local);
  (void)std::snprintf(text.data() + size, text.size() - size, ".%03d",
                      static_cast<int>((unix_ms % 1000 + 1000) % 1000));
  return text.data();
}

std::string printable(std::string_view text) {
  std::string result(text);
  for (std::size_t i = 0; i < result.size(); ++i) {
    const auto c = static_cast<unsigned char>(result[i]);
    if (c == '\t' || c == '\n') {
      result[i] = ' ';
    } else if (c < 0x20 || c == 0x7F) {
      result[i] = '?';
    } else if (c == 0xC2 && i + 1 < result.size() &&
               static_cast<unsigned char>(result[i + 1]) < 0xA0) {
      result[i] = result[i + 1] = '?';  // the other control characters, as UTF-8 has them
    }
  }
  return result;
}

std::string cut(std::string_view text, std::size_t width) {
  std::size_t seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!continues(text[i]) && seen++ == width) return std::string(text.substr(0, i));
  }
  return std::string(text);
}

Table::Table(const std::vector<std::string>& columns) {
  rows_.emplace_back();
  for (const std::string& column : columns) {
    right_.push_back(column.starts_with('>'));
    rows_.back().push_back(right_.back() ? column.substr(1) : column);
  }
}

void Table::add(std::vector<std::string> row) {
  row.resize(right_.size());
  for (std::string& cell : row) cell = printable(cell);
  rows_.push_back(std::move(row));
}

std::vector<std::string> Table::lines() const {
  std::vector<std::size_t> widths(right_.size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::vector<std::string> result;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - width_of(row[i]), ' ');
      line += (i == 0 ? "" : "  ") + (right_[i] ? pad + row[i] : row[i] + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    result.push_back(std::move(line));
  }
  return result;
}

}  // namespace forge::tool
