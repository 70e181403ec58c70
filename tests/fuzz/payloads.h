// Types to decode arbitrary bytes as: one of each shape that a payload can have.
#pragma once

#include <forge/payload.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "tests/fuzz/input.h"

namespace forge::fuzz {

enum class Colour : std::int16_t {};

struct Point {
  std::int32_t x = 0;
  double y = 0;
  FORGE_FIELDS(x, y);
};

struct Tree {
  std::string name;
  std::optional<Tensor> image;
  std::map<std::string, Point> points;
  std::vector<Tree> children;
  FORGE_FIELDS(name, image, points, children);
};

template <class... Ts>
struct Types {};

using AllTypes =
    Types<bool, std::int8_t, std::uint16_t, std::int32_t, std::uint64_t, float, double, std::string,
          Bytes, Tensor, Colour, std::monostate, std::vector<bool>, std::vector<std::uint8_t>,
          std::vector<std::int32_t>, std::vector<double>, std::vector<std::string>,
          std::vector<Tensor>, std::vector<std::vector<float>>, std::array<std::uint16_t, 3>,
          std::array<std::string, 2>, std::pair<std::int64_t, Bytes>,
          std::tuple<bool, std::string, std::vector<std::int16_t>>,
          std::variant<std::int64_t, std::string, Bytes, Tensor>, std::optional<std::int32_t>,
          std::optional<std::optional<std::monostate>>, std::map<std::string, std::vector<Bytes>>,
          std::unordered_map<std::string, float>, Point, Tree, Result<Tree>, Result<void>>;

/// Calls `use` with the type that the number picks.
template <class Use, class... Ts>
void with_type(Types<Ts...>, std::uint8_t number, Use&& use) {
  std::size_t left = number % sizeof...(Ts);
  ((left-- == 0 ? use.template operator()<Ts>() : void()), ...);
}

/// Reads every byte, so that a sanitizer sees it.
inline void touch(std::span<const std::byte> bytes) {
  std::uint8_t sum = 0;
  for (const std::byte byte : bytes) sum = static_cast<std::uint8_t>(sum + std::uint8_t(byte));
  asm volatile("" : : "r"(sum));
}

/// Reads all values, whatever they are. Throws InvalidArgument.
inline void read_everything(detail::Reader& reader) {
  while (!reader.at_end()) {
    switch (reader.peek()) {
      case detail::Kind::tensor:
        touch(reader.tensor().bytes());
        break;
      case detail::Kind::bytes:
        touch(reader.bytes());
        break;
      case detail::Kind::numbers:
        touch(reader.numbers().bytes);
        break;
      case detail::Kind::string:
        touch(std::as_bytes(std::span(reader.string())));
        break;
      case detail::Kind::array:
        reader.array();
        break;
      case detail::Kind::map:
        reader.map();
        break;
      default:
        reader.skip();
    }
  }
}

}  // namespace forge::fuzz
