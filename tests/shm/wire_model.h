// A tree of values: the model that both encoders, msgpack-cxx and forge, are held against.
#pragma once

#include <forge/error.h>
#include <forge/wire.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <msgpack.hpp>
#include <ostream>
#include <random>
#include <string>
#include <variant>
#include <vector>

namespace forge::tests {

using namespace forge::detail;
using Blob = std::vector<std::byte>;

struct Value;
struct Nil {
  bool operator==(const Nil&) const = default;
};
/// An ext value as the library sees it; Reader can skip it if the type is unknown.
struct Ext {
  std::int8_t type;
  std::string body;
  bool operator==(const Ext&) const = default;
};
using Array = std::vector<Value>;
struct Map {
  std::vector<Value> flat;  // key, value, key, value
  bool operator==(const Map& other) const;
};

/// Integers are negative (int64_t) or not (uint64_t), whatever their width was.
struct Value {
  std::variant<Nil, bool, std::int64_t, std::uint64_t, double, std::string, Blob, Array, Map, Ext>
      v;
  bool operator==(const Value& other) const;
  friend void PrintTo(const Value& value, std::ostream* out) {
    *out << "a tree with root of kind " << value.v.index();
  }
};

inline bool Map::operator==(const Map& other) const { return flat == other.flat; }
inline bool Value::operator==(const Value& other) const { return v == other.v; }

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  Value value(int depth, bool with_unknown) {
    const std::uint64_t kinds = depth == 0 ? 7 : 9;
    switch (pick(kinds + (with_unknown ? 1 : 0))) {
      case 0:
        return {Nil{}};
      case 1:
        return {pick(2) == 0};
      case 2:
        return {-1 - static_cast<std::int64_t>(number() >> 1)};
      case 3:
        return {number()};
      case 4:
        return {floating()};
      case 5:
        return {std::string(size(), static_cast<char>('a' + pick(26)))};
      case 6:
        return {Blob(size(), static_cast<std::byte>(pick(256)))};
      case 7:
        if (depth > 0) return {array(depth, with_unknown)};
        break;
      case 8:
        if (depth > 0) return {map(depth, with_unknown)};
        break;
      default:
        break;
    }
    return {
        Ext{static_cast<std::int8_t>(-1 - static_cast<int>(pick(100))), std::string(size(), 'x')}};
  }
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

 private:
  /// Every width, and the values at its borders.
  std::uint64_t number() {
    const std::uint64_t bits = random_() >> pick(64);
    const std::uint64_t border = std::uint64_t{1} << pick(64);
    return pick(2) == 0 ? bits : border - pick(2);
  }
  /// Never integral and small: msgpack-cxx turns those into integers.
  double floating() {
    constexpr double kSpecial[] = {-0.5, 1e300, -1e-310, std::numeric_limits<double>::infinity(),
                                   0.1};
    return pick(2) == 0 ? kSpecial[pick(5)] : static_cast<double>(random_() >> 20) + 0.5;
  }
  std::size_t size() {
    constexpr std::size_t kSizes[] = {0, 1, 2, 4, 8, 15, 16, 31, 32, 255, 256, 257, 65535, 65536};
    return pick(8) == 0 ? kSizes[pick(std::size(kSizes))] : pick(20);
  }
  Array array(int depth, bool with_unknown) {
    Array values(pick(8));
    for (Value& part : values) part = value(depth - 1, with_unknown);
    return values;
  }
  Map map(int depth, bool with_unknown) {
    Map values{Array(2 * pick(8))};
    for (Value& part : values.flat) part = value(depth - 1, with_unknown);
    return values;
  }

  std::mt19937_64 random_;
};

template <class... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <class... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

inline void write(Writer& out, const Value& value) {
  std::visit(
      Overloaded{[&](Nil) { out.nil(); }, [&](bool b) { out.boolean(b); },
                 [&](std::int64_t i) { out.integer(i); },
                 [&](std::uint64_t i) { out.unsigned_integer(i); },
                 [&](double d) { out.float64(d); }, [&](const std::string& s) { out.string(s); },
                 [&](const Blob& b) { out.bytes(b); },
                 [&](const Array& a) {
                   out.array(a.size());
                   for (const Value& part : a) write(out, part);
                 },
                 [&](const Map& m) {
                   out.map(m.flat.size() / 2);
                   for (const Value& part : m.flat) write(out, part);
                 },
                 [](const Ext&) { FAIL() << "Writer has no unknown ext values"; }},
      value.v);
}

using Packer = msgpack::packer<msgpack::sbuffer>;

inline void pack(Packer& out, const Value& value) {
  std::visit(
      Overloaded{[&](Nil) { out.pack_nil(); }, [&](bool b) { out.pack(b); },
                 [&](std::int64_t i) { out.pack_int64(i); },
                 [&](std::uint64_t i) { out.pack_uint64(i); },
                 [&](double d) { out.pack_double(d); }, [&](const std::string& s) { out.pack(s); },
                 [&](const Blob& b) {
                   out.pack_bin(static_cast<std::uint32_t>(b.size()));
                   out.pack_bin_body(reinterpret_cast<const char*>(b.data()),
                                     static_cast<std::uint32_t>(b.size()));
                 },
                 [&](const Array& a) {
                   out.pack_array(static_cast<std::uint32_t>(a.size()));
                   for (const Value& part : a) pack(out, part);
                 },
                 [&](const Map& m) {
                   out.pack_map(static_cast<std::uint32_t>(m.flat.size() / 2));
                   for (const Value& part : m.flat) pack(out, part);
                 },
                 [&](const Ext& e) {
                   out.pack_ext(e.body.size(), e.type);
                   out.pack_ext_body(e.body.data(), static_cast<std::uint32_t>(e.body.size()));
                 }},
      value.v);
}

/// Reads whatever comes next. Unknown ext values are skipped and left out of the comparison.
inline Value read(Reader& in) {
  switch (in.peek()) {
    case Kind::nil:
      return in.nil(), Value{};
    case Kind::boolean:
      return {in.boolean()};
    case Kind::integer: {
      Reader ahead = in;
      try {
        const std::uint64_t value = ahead.unsigned_integer();
        in = ahead;
        return {value};
      } catch (const InvalidArgument&) {
        return {in.integer()};
      }
    }
    case Kind::floating:
      return {in.float64()};
    case Kind::string:
      return {std::string(in.string())};
    case Kind::bytes: {
      const auto bytes = in.bytes();
      return {Blob(bytes.begin(), bytes.end())};
    }
    case Kind::array: {
      Array values(in.array());
      for (Value& part : values) part = read(in);
      return {std::move(values)};
    }
    case Kind::map: {
      Map values{Array(2 * in.map())};
      for (Value& part : values.flat) part = read(in);
      return {std::move(values)};
    }
    case Kind::numbers: {
      const Numbers numbers = in.numbers();
      return {Ext{static_cast<std::int8_t>(numbers.dtype), std::string(numbers.count(), 'n')}};
    }
    case Kind::tensor:
      return {Ext{0, std::to_string(in.tensor().size())}};
    case Kind::unknown:
      return in.skip(), Value{Ext{}};
    case Kind::end:
      break;
  }
  in.fail("a value");
}

/// `blobs` resolves what went out of band, so that the model need not know about it.
inline Value unpacked(const msgpack::object& object, std::span<const std::byte> blobs) {
  switch (object.type) {
    case msgpack::type::NIL:
      return {};
    case msgpack::type::BOOLEAN:
      return {object.via.boolean};
    case msgpack::type::POSITIVE_INTEGER:
      return {std::uint64_t{object.via.u64}};
    case msgpack::type::NEGATIVE_INTEGER:
      return {std::int64_t{object.via.i64}};
    case msgpack::type::FLOAT32:
    case msgpack::type::FLOAT64:
      return {object.via.f64};
    case msgpack::type::STR:
      return {std::string(object.via.str.ptr, object.via.str.size)};
    case msgpack::type::BIN: {
      const auto* data = reinterpret_cast<const std::byte*>(object.via.bin.ptr);
      return {Blob(data, data + object.via.bin.size)};
    }
    case msgpack::type::EXT: {
      EXPECT_EQ(object.via.ext.type(), 1) << "only bytes out of band are expected";
      std::uint64_t reference[2] = {};
      EXPECT_EQ(object.via.ext.size, sizeof(reference));
      std::memcpy(reference, object.via.ext.data(), sizeof(reference));
      const auto bytes = blobs.subspan(reference[0], reference[1]);
      return {Blob(bytes.begin(), bytes.end())};
    }
    case msgpack::type::ARRAY: {
      Array values;
      for (std::uint32_t i = 0; i < object.via.array.size; ++i) {
        values.push_back(unpacked(object.via.array.ptr[i], blobs));
      }
      return {std::move(values)};
    }
    case msgpack::type::MAP: {
      Map values;
      for (std::uint32_t i = 0; i < object.via.map.size; ++i) {
        const auto& pair = object.via.map.ptr[i];
        values.flat.push_back(unpacked(pair.key, blobs));
        values.flat.push_back(unpacked(pair.val, blobs));
      }
      return {std::move(values)};
    }
  }
  return {};
}

/// Puts the same blank in place of every unknown ext value.
inline void blank_unknown(Value& value) {
  std::visit(Overloaded{[](auto&) {}, [](Ext& e) { e = Ext{}; },
                        [](Array& a) {
                          for (Value& part : a) blank_unknown(part);
                        },
                        [](Map& m) {
                          for (Value& part : m.flat) blank_unknown(part);
                        }},
             value.v);
}

}  // namespace forge::tests
