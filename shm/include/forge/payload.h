// Payloads: which C++ types may be arguments and results of endpoints, and how each one travels.
//
// Types are compared as strings, at bind time:
//
//     bool i8 .. u64 f32 f64 str bytes tensor void     enums: their integer     Result<T>: T!
//     [T] [T;N] (A,B) {str:T} T? (A|B) {x:i32,y:f64}   ^1: the struct around, ^2: the one around it
//
// Reading checks everything: numbers that do not fit, wrong counts and wrong kinds throw
// InvalidArgument.
#pragma once

#include <forge/codec.h>
#include <forge/error.h>
#include <forge/fields.h>
#include <forge/result.h>
#include <forge/wire.h>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <unordered_map>
#include <utility>
#include <variant>

namespace forge::detail {

/// What an endpoint that returns nothing answers.
template <>
struct Codec<void> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer) { writer.nil(); }
  static void decode(Reader& reader) { reader.nil(); }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "void"; }
};

template <>
struct Codec<std::monostate> {
  static constexpr bool kPayload = true;
  static void encode(Writer& writer, std::monostate) { writer.nil(); }
  static std::monostate decode(Reader& reader) { return reader.nil(), std::monostate{}; }
  static void type(std::string& out, const TypeFrame* = nullptr) { out += "void"; }
};

/// "A,B" for types A and B.
template <class... Ts>
void spell_list(std::string& out, [[maybe_unused]] const TypeFrame* outer,
                [[maybe_unused]] char separator = ',') {
  [[maybe_unused]] bool first = true;
  (((first ? void() : out.push_back(separator)), first = false, Codec<Ts>::type(out, outer)), ...);
}

template <class A, class B>
struct Codec<std::pair<A, B>> {
  static constexpr bool kPayload = is_payload<A> && is_payload<B>;
  static void encode(Writer& writer, const std::pair<A, B>& value) {
    writer.array(2);
    Codec<A>::encode(writer, value.first);
    Codec<B>::encode(writer, value.second);
  }
  static std::pair<A, B> decode(Reader& reader) {
    read_array_of(reader, 2);
    return {Codec<A>::decode(reader), Codec<B>::decode(reader)};  // braces: in this order
  }
  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    out += '(';
    spell_list<A, B>(out, outer);
    out += ')';
  }
};

template <class... Ts>
struct Codec<std::tuple<Ts...>> {
  static constexpr bool kPayload = (is_payload<Ts> && ...);
  static void encode(Writer& writer, const std::tuple<Ts...>& value) {
    writer.array(sizeof...(Ts));
    std::apply([&](const Ts&... part) { (Codec<Ts>::encode(writer, part), ...); }, value);
  }
  static std::tuple<Ts...> decode(Reader& reader) {
    read_array_of(reader, sizeof...(Ts));
    return std::tuple<Ts...>{Codec<Ts>::decode(reader)...};  // braces: in this order
  }
  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    out += '(';
    spell_list<Ts...>(out, outer);
    out += ')';
  }
};

/// Throws InvalidArgument: an index past the alternatives, or a variant that holds none.
[[noreturn]] void throw_bad_alternative(std::uint64_t index, std::size_t alternatives);

/// [index, value].
template <class... Ts>
struct Codec<std::variant<Ts...>> {
  static constexpr bool kPayload = (is_payload<Ts> && ...);
  static void encode(Writer& writer, const std::variant<Ts...>& value) {
    if (value.valueless_by_exception()) throw_bad_alternative(value.index(), sizeof...(Ts));
    writer.array(2);
    writer.unsigned_integer(value.index());
    std::visit([&]<class T>(const T& held) { Codec<T>::encode(writer, held); }, value);
  }
  static std::variant<Ts...> decode(Reader& reader) {
    read_array_of(reader, 2);
    const std::uint64_t index = reader.unsigned_integer();
    if (index >= sizeof...(Ts)) throw_bad_alternative(index, sizeof...(Ts));
    return decode_at(reader, index, std::index_sequence_for<Ts...>{});
  }
  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    out += '(';
    spell_list<Ts...>(out, outer, '|');
    out += sizeof...(Ts) == 1 ? "|)" : ")";  // (A) is a tuple
  }

 private:
  template <std::size_t... I>
  static std::variant<Ts...> decode_at(Reader& reader, std::uint64_t index,
                                       std::index_sequence<I...>) {
    using Decode = std::variant<Ts...> (*)(Reader&);
    constexpr Decode kDecoders[] = {+[](Reader& from) {
      return std::variant<Ts...>(std::in_place_index<I>, Codec<Ts>::decode(from));
    }...};
    return kDecoders[index](reader);
  }
};

/// Whether a T may travel as nil, so that an optional of it must be told from an empty one.
template <class T>
inline constexpr bool kMayBeNil = std::is_same_v<T, std::monostate>;
template <class T>
inline constexpr bool kMayBeNil<std::optional<T>> = true;

/// nil or the value; [value] where the value itself may be nil.
template <class T>
struct Codec<std::optional<T>> {
  static constexpr bool kPayload = is_payload<T>;
  static void encode(Writer& writer, const std::optional<T>& value) {
    if (!value) return writer.nil();
    if constexpr (kMayBeNil<T>) writer.array(1);
    Codec<T>::encode(writer, *value);
  }
  static std::optional<T> decode(Reader& reader) {
    if (reader.peek() == Kind::nil) return reader.nil(), std::nullopt;
    if constexpr (kMayBeNil<T>) read_array_of(reader, 1);
    return std::optional<T>(std::in_place, Codec<T>::decode(reader));
  }
  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    Codec<T>::type(out, outer);
    out += '?';
  }
};

template <class Map>
struct MapCodec {
  using T = typename Map::mapped_type;
  static constexpr bool kPayload = is_payload<T>;
  static void encode(Writer& writer, const Map& value) {
    writer.map(value.size());
    for (const auto& [key, mapped] : value) {
      writer.string(key);
      Codec<T>::encode(writer, mapped);
    }
  }
  static Map decode(Reader& reader) {
    Map value;
    for (std::size_t left = reader.map(); left != 0; --left) {
      const std::size_t position = reader.position();
      std::string key(reader.string());
      if (!value.try_emplace(std::move(key), Codec<T>::decode(reader)).second) {
        reader.fail_at(position, "a key that has not been used in this map", "it a second time");
      }
    }
    return value;
  }
  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    out += "{str:";
    Codec<T>::type(out, outer);
    out += '}';
  }
};
template <class T, class Less, class Allocator>
struct Codec<std::map<std::string, T, Less, Allocator>>
    : MapCodec<std::map<std::string, T, Less, Allocator>> {};
template <class T, class Hash, class Equal, class Allocator>
struct Codec<std::unordered_map<std::string, T, Hash, Equal, Allocator>>
    : MapCodec<std::unordered_map<std::string, T, Hash, Equal, Allocator>> {};

/// A struct travels as the array of its fields, in FORGE_FIELDS' order.
template <has_fields T>
struct Codec<T> {
  static constexpr bool kPayload = true;

  static void encode(Writer& writer, const T& value) {
    auto write = [&]<class... Fs>(const Field<const Fs>&... fields) {
      static_assert(sizeof...(Fs) <= 32, "FORGE_FIELDS takes up to 32 fields; nest structs");
      writer.array(sizeof...(Fs));
      (Codec<Fs>::encode(writer, fields.value), ...);
    };
    with_fields(value, write);
  }

  static T decode(Reader& reader) {
    // Not std::default_initializable: clang may have answered that while T was incomplete.
    static_assert(
        requires { T{}; }, "FORGE_FIELDS needs a default constructor");
    T value{};
    auto read = [&]<class... Fs>(const Field<Fs>&... fields) {
      read_array_of(reader, sizeof...(Fs));
      ((fields.value = Codec<Fs>::decode(reader)), ...);
    };
    with_fields(value, read);
    return value;
  }

  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    std::size_t level = 1;
    for (const TypeFrame* frame = outer; frame; frame = frame->outer, ++level) {
      if (*frame->type == typeid(T)) {
        out += '^';
        out += std::to_string(level);
        return;
      }
    }
    const TypeFrame self{&typeid(T), outer};
    out += '{';
    auto spell = [&]<class... Fs>(const Field<const Fs>&... fields) {
      [[maybe_unused]] const char* separator = "";
      ((((out += separator) += fields.name) += ':', separator = ",", Codec<Fs>::type(out, &self)),
       ...);
    };
    const T value{};
    with_fields(value, spell);
    out += '}';
  }
};

void write_error(Writer& writer, const Error& error);
/// Null if a value follows, in an array of `values`; with 0 there must be an error.
ErrorPtr read_error(Reader& reader, std::size_t values);

/// [0, value] ([0] for void) or [code, message, type, maybe_executed].
template <class T>
struct Codec<Result<T>> {
  static constexpr bool kPayload = std::is_void_v<T> || is_payload<T>;
  static constexpr std::size_t kValues = std::is_void_v<T> ? 1 : 2;

  static void encode(Writer& writer, const Result<T>& result) {
    if (!result) return write_error(writer, result.error());
    writer.array(kValues);
    writer.integer(0);
    if constexpr (!std::is_void_v<T>) Codec<T>::encode(writer, *result);
  }
  static Result<T> decode(Reader& reader) {
    if (ErrorPtr error = read_error(reader, kValues)) return error;
    if constexpr (std::is_void_v<T>) {
      return {};
    } else {
      return Result<T>(Codec<T>::decode(reader));
    }
  }
  static void type(std::string& out, const TypeFrame* outer = nullptr) {
    Codec<T>::type(out, outer);
    out += '!';
  }
};

/// What an argument of type T is sent as: itself, or a std::string for what converts to a view.
template <class T>
using PayloadOf = std::conditional_t<!is_payload<T> && std::convertible_to<T, std::string_view>,
                                     std::string, std::remove_cvref_t<T>>;

/// Encodes a value of type PayloadOf<T> without making one.
template <class T>
void encode(Writer& writer, const T& value) {
  if constexpr (!is_payload<T> && std::convertible_to<const T&, std::string_view>) {
    writer.string(value);
  } else {
    Codec<T>::encode(writer, value);
  }
}

/// The type as a string, e.g. "[f32]".
template <class T>
std::string type_of() {
  std::string out;
  Codec<std::remove_cvref_t<T>>::type(out);
  return out;
}

template <class F>
struct Signature {
  static_assert(is_payload<F>, "forge: a signature is written as Result(Arguments...)");
};
template <class R, class... Args>
struct Signature<R(Args...)> {
  static std::string spell() {
    std::string out = type_of<R>();
    out += '(';
    spell_list<std::remove_cvref_t<Args>...>(out, nullptr);
    out += ')';
    return out;
  }
};

/// "R(A,B)" for R(A, B), with const and references ignored and integers by width and sign.
template <class F>
std::string signature_of() {
  return Signature<F>::spell();
}

}  // namespace forge::detail
