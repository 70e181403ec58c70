// The payload types that payload_plugin.cc serves and payload_test.cc sends.
#pragma once

#include <forge/payload.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace payloads {

enum class Color : std::uint8_t { red = 0, green = 7, blue = 255 };
enum Depth : std::int64_t { kAbyss = INT64_MIN, kSurface = 0 };

struct Point {
  std::int32_t x = 0;
  double y = 0;
  FORGE_FIELDS(x, y)
  friend bool operator==(const Point&, const Point&) = default;
};

/// Refers to itself.
struct Tree {
  std::string name;
  std::vector<Tree> children;
  FORGE_FIELDS(name, children)
  friend bool operator==(const Tree&, const Tree&) = default;
};

/// Knows nothing of forge.
struct Plain {
  std::string key;
  std::optional<std::int64_t> value;
  friend bool operator==(const Plain&, const Plain&) = default;
};

using Choice = std::variant<std::int64_t, std::string, Point>;

struct Everything {
  bool yes = false;
  std::int8_t tiny = 0;
  std::uint64_t huge = 0;
  float ratio = 0;
  Color color = Color::red;
  std::string text;
  forge::Bytes bytes;
  std::vector<std::string> words;
  std::array<std::int16_t, 3> triple{};
  std::pair<std::string, std::int32_t> pair;
  Choice choice;
  std::optional<Point> maybe;
  std::map<std::string, std::vector<double>> table;
  Tree tree;
  Plain plain;
  FORGE_FIELDS(yes, tiny, huge, ratio, color, text, bytes, words, triple, pair, choice, maybe,
               table, tree, plain)
  friend bool operator==(const Everything&, const Everything&) = default;
};

/// Where bytes lie: the name of the mapping and the offset in its file.
struct Location {
  std::string mapping;
  std::uint64_t offset = 0;
  FORGE_FIELDS(mapping, offset)
  friend bool operator==(const Location&, const Location&) = default;
};

/// Of an address in this process; reads /proc/self/maps.
Location locate(const void* address);

/// How a worker stands with signals and descriptors.
struct ProcessState {
  std::vector<std::int32_t> not_default;  ///< signals that are ignored or handled
  std::vector<std::int32_t> blocked;
  std::vector<std::string> descriptors;  ///< what the open ones point at, 0 to 2 left out
  FORGE_FIELDS(not_default, blocked, descriptors)
};

}  // namespace payloads

FORGE_FIELDS_OF(payloads::Plain, key, value)
