// Codec<T> for values without parts of other types: numbers, strings, blocks of numbers, tensors.
// What is put together from others is in payload.h, which is the header to include.
#pragma once

#include <forge/tensor.h>
#include <forge/wire.h>
#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <vector>

namespace forge {

using Bytes = std::vector<std::byte>;

namespace detail {

/// The structs whose types are being spelled, innermost first: how recursion becomes "^1".
struct TypeFrame {
  const std::type_info* type;
  const TypeFrame* outer;
};

template <class T>
struct Codec;

/// Payload types, const and references ignored. A struct counts when it has fields; what they are
/// is checked when it is used.
template <class T>
concept is_payload = Codec<std::remove_cvref_t<T>>::kPayload;

template <class T>
constexpr void require_payload() {
  static_assert(is_payload<T>,
                "forge: this type cannot be an argument or result of an endpoint. Payloads are "
                "bool, integers, float, double, enums, std::string, forge::Bytes, vectors, "
                "arrays, pairs, tuples, variants, optionals, maps with std::string keys, "
                "forge::Tensor, and structs with FORGE_FIELDS(x, y); inside");
}

/// Writes a T, reads a T back, spells T's type. This one refuses; the specialisations do the work.
template <class T>
struct Codec {
  static constexpr bool kPayload = false;

  template <class U>
  static void encode(Writer&, const U&) {
    require_payload<T>();
  }
  template <class U = T>
  static U decode(Reader&) {
    require_payload<T>();
    throw 0;
  }
  template <class Frame = TypeFrame>
  static void type(std::string&, const Frame* = nullptr) {
    require_payload<T>();
  }
};

/// The number a T travels as: itself, or an enum's underlying integer.
template <class T>
struct NumberOf {
  using type = T;
};
template <class T>
requires std::is_enum_v<T>
struct NumberOf<T> {
  using type = std::underlying_type_t<T>;
};
template <class T>
concept is_number =
    DTypeOf<typename NumberOf<T>::type>::kKnown && !std::same_as<typename NumberOf<T>::type, bool>;
template <is_number T>
inline constexpr DType kDTypeOf = DTypeOf<typename NumberOf<T>::type>::value();

/// Reads the head of an array that must have `count` values.
void read_array_of(Reader& reader, std::size_t count);

template <>
struct Codec<bool> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, bool value) { writer.boolean(value); }
  static bool decode(Reader& reader) { return reader.boolean(); }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "bool"; }
};

template <class T>
requires(std::integral<T>&& is_number<T>) struct Codec<T> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, T value) {
    if constexpr (std::is_signed_v<T>) {
      writer.integer(value);
    } else {
      writer.unsigned_integer(value);
    }
  }
  static T decode(Reader& reader) {
    const auto value = [&] {
      if constexpr (std::is_signed_v<T>) {
        return reader.integer();
      } else {
        return reader.unsigned_integer();
      }
    }();
    if constexpr (sizeof(T) < 8) {
      using Limits = std::numeric_limits<T>;
      if (value < Limits::min() || value > Limits::max()) {
        throw_out_of_range(value, to_string(kDTypeOf<T>));
      }
    }
    return static_cast<T>(value);
  }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += to_string(kDTypeOf<T>); }
};

template <class T>
requires std::is_enum_v<T>
struct Codec<T> {
  using Integer = std::underlying_type_t<T>;
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, T value) {
    Codec<Integer>::encode(writer, static_cast<Integer>(value));
  }
  static T decode(Reader& reader) { return static_cast<T>(Codec<Integer>::decode(reader)); }
  static void type(std::string& out, const TypeFrame* = nullptr) { Codec<Integer>::type(out); }
};

template <>
struct Codec<float> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, float value) { writer.float32(value); }
  /// Rounds what is more precise; refuses what is too large.
  static float decode(Reader& reader) {
    const double value = reader.float64();
    constexpr double kMax = std::numeric_limits<float>::max();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if ((value > kMax && value != kInfinity) || (value < -kMax && value != -kInfinity)) {
      throw_out_of_range(value, "f32");
    }
    return static_cast<float>(value);
  }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "f32"; }
};

template <>
struct Codec<double> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, double value) { writer.float64(value); }
  static double decode(Reader& reader) { return reader.float64(); }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "f64"; }
};

template <>
struct Codec<std::string> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, const std::string& value) { writer.string(value); }
  static std::string decode(Reader& reader) { return std::string(reader.string()); }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "str"; }
};

template <>
struct Codec<Bytes> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, const Bytes& value) { writer.bytes(value); }
  static Bytes decode(Reader& reader) {
    const std::span<const std::byte> bytes = reader.bytes();
    return Bytes(bytes.data(), bytes.data() + bytes.size());
  }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "bytes"; }
};

template <>
struct Codec<Tensor> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, const Tensor& value) { writer.tensor(value); }
  static Tensor decode(Reader& reader) { return reader.tensor(); }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "tensor"; }
};

/// Numbers travel as one block with their type in front, so that a reader can convert them.
/// It also takes plain arrays.
template <class T>
struct Codec<std::vector<T>> {
  static constexpr bool kPayload = Codec<T>::kPayload;

  static void encode(Writer& writer, const std::vector<T>& values) {
    if constexpr (is_number<T>) {
      writer.numbers(kDTypeOf<T>, std::as_bytes(std::span(values)));
    } else {
      writer.array(values.size());
      for (const auto& value : values) Codec<T>::encode(writer, value);
    }
  }

  static std::vector<T> decode(Reader& reader) {
    if constexpr (is_number<T>) {
      if (reader.peek() != Kind::array) return decode_block(reader.numbers());
    }
    const std::size_t count = reader.array();
    std::vector<T> values;
    // A T may be larger than its encoding: trust a count only as far as the input is long.
    values.reserve(std::min(count, reader.remaining() / sizeof(T) + 16));
    for (std::size_t i = 0; i < count; ++i) values.push_back(Codec<T>::decode(reader));
    return values;
  }

  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    out += '[';
    Codec<T>::type(out, outer);
    out += ']';
  }

 private:
  static std::vector<T> decode_block(const Numbers& block) {
    const auto address = std::bit_cast<std::uintptr_t>(block.bytes.data());
    if (block.dtype == kDTypeOf<T> && address % alignof(T) == 0) {
      const T* first = reinterpret_cast<const T*>(block.bytes.data());
      return std::vector<T>(first, first + block.count());
    }
    std::vector<T> values(block.count());
    convert_numbers(block, kDTypeOf<T>, std::as_writable_bytes(std::span(values)));
    return values;
  }
};

template <class T, std::size_t N>
struct Codec<std::array<T, N>> {
  static constexpr bool kPayload = Codec<T>::kPayload;

  static void encode(Writer& writer, const std::array<T, N>& values) {
    if constexpr (is_number<T>) {
      writer.numbers(kDTypeOf<T>, std::as_bytes(std::span(values)));
    } else {
      writer.array(N);
      for (const T& value : values) Codec<T>::encode(writer, value);
    }
  }

  static std::array<T, N> decode(Reader& reader) {
    std::array<T, N> values{};
    if constexpr (is_number<T>) {
      if (reader.peek() != Kind::array) {
        const std::size_t position = reader.position();
        const Numbers block = reader.numbers();
        if (block.count() != N) {
          reader.fail_at(position, std::to_string(N) + " numbers", std::to_string(block.count()));
        }
        convert_numbers(block, kDTypeOf<T>, std::as_writable_bytes(std::span(values)));
        return values;
      }
    }
    read_array_of(reader, N);
    for (T& value : values) value = Codec<T>::decode(reader);
    return values;
  }

  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    out += '[';
    Codec<T>::type(out, outer);
    out += ';';
    out += std::to_string(N);
    out += ']';
  }
};

}  // namespace detail
}  // namespace forge
