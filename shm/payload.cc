#include <forge/error.h>
#include <forge/payload.h>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>

namespace forge::detail {
namespace {

/// Any number, as widely as its kind allows.
struct Number {
  enum class Kind { negative, unsigned_integer, floating } kind;
  std::uint64_t bits;  // two's complement, if an integer
  double floating;     // the value, whatever the kind
};

template <class T>
Number load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  const auto floating = static_cast<double>(value);
  if constexpr (std::is_floating_point_v<T>) {
    return {Number::Kind::floating, 0, floating};
  } else {
    const bool negative = std::is_signed_v<T> && value < T{};
    return {negative ? Number::Kind::negative : Number::Kind::unsigned_integer,
            static_cast<std::uint64_t>(value), floating};
  }
}

/// False if the number does not fit a T.
template <class T>
bool store(const Number& number, std::byte* to) {
  T value;
  if constexpr (std::is_floating_point_v<T>) {
    // A finite number past T's range; infinities and NaN stay what they are.
    const double size = number.floating < 0 ? -number.floating : number.floating;
    if (size > static_cast<double>(std::numeric_limits<T>::max()) && size - size == 0) return false;
    value = static_cast<T>(number.floating);
  } else {
    value = static_cast<T>(number.bits);
    const bool negative = number.kind == Number::Kind::negative;
    if (number.kind == Number::Kind::floating || (value < T{}) != negative ||
        static_cast<std::uint64_t>(value) != number.bits) {
      return false;
    }
  }
  std::memcpy(to, &value, sizeof(T));
  return true;
}

using Load = Number (*)(const std::byte*);
using Store = bool (*)(const Number&, std::byte*);
struct Conversion {
  Load load;
  Store store;
};

template <class T>
constexpr Conversion kConversion = {&load<T>, &store<T>};

/// Nulls for the dtypes that no C++ number has.
Conversion conversion(DType dtype) {
  switch (dtype) {
    case DType::i8:
      return kConversion<std::int8_t>;
    case DType::u8:
      return kConversion<std::uint8_t>;
    case DType::i16:
      return kConversion<std::int16_t>;
    case DType::u16:
      return kConversion<std::uint16_t>;
    case DType::i32:
      return kConversion<std::int32_t>;
    case DType::u32:
      return kConversion<std::uint32_t>;
    case DType::i64:
      return kConversion<std::int64_t>;
    case DType::u64:
      return kConversion<std::uint64_t>;
    case DType::f32:
      return kConversion<float>;
    case DType::f64:
      return kConversion<double>;
    case DType::boolean:
    case DType::f16:
    case DType::bf16:
      break;
  }
  return {nullptr, nullptr};
}

std::string spell(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

std::string spell(const Number& number) {
  switch (number.kind) {
    case Number::Kind::negative:
      return std::to_string(static_cast<std::int64_t>(number.bits));
    case Number::Kind::unsigned_integer:
      return std::to_string(number.bits);
    case Number::Kind::floating:
      break;
  }
  return spell(number.floating);
}

[[noreturn]] void throw_no_fit(const std::string& value, std::string_view type) {
  std::string text = "value " + value + " does not fit ";
  throw InvalidArgument((text += type) + "; pass one that does, or use a wider type on both sides");
}

}  // namespace

void convert_numbers(const Numbers& from, DType to, std::span<std::byte> out) {
  if (from.dtype == to) {
    if (!from.bytes.empty()) std::memcpy(out.data(), from.bytes.data(), from.bytes.size());
    return;
  }
  const Load load = conversion(from.dtype).load;
  const Store store = conversion(to).store;
  if (!load || !store) {
    std::string text = "no conversion from ";
    ((text += to_string(from.dtype)) += " to ") += to_string(to);
    throw InvalidArgument(text + " elements; send them in a Tensor");
  }
  const std::size_t count = from.count();
  for (std::size_t i = 0; i < count; ++i) {
    const Number number = load(from.bytes.data() + i * size_of(from.dtype));
    if (!store(number, out.data() + i * size_of(to))) throw_no_fit(spell(number), to_string(to));
  }
}

void throw_out_of_range(std::int64_t value, std::string_view type) {
  throw_no_fit(std::to_string(value), type);
}
void throw_out_of_range(std::uint64_t value, std::string_view type) {
  throw_no_fit(std::to_string(value), type);
}
void throw_out_of_range(double value, std::string_view type) { throw_no_fit(spell(value), type); }

void throw_bad_alternative(std::uint64_t index, std::size_t alternatives) {
  if (index == std::variant_npos) {
    throw InvalidArgument("a variant without a value cannot be sent; assign one first");
  }
  throw InvalidArgument("alternative " + std::to_string(index) + " of a variant with " +
                        std::to_string(alternatives) +
                        "; sender and receiver must agree on the type");
}

void read_array_of(Reader& reader, std::size_t count) {
  const std::size_t position = reader.position();
  const std::size_t found = reader.array();
  if (found != count) {
    reader.fail_at(position, "an array of " + std::to_string(count), std::to_string(found));
  }
}

void write_error(Writer& writer, const Error& error) {
  const Status status = to_status(error);
  writer.array(4);
  writer.unsigned_integer(static_cast<std::uint64_t>(status.code));
  writer.string(status.message);
  writer.string(status.type);
  writer.boolean(status.maybe_executed);
}

ErrorPtr read_error(Reader& reader, std::size_t values) {
  const std::size_t position = reader.position();
  const std::size_t found = reader.array();
  const auto code = Codec<std::uint16_t>::decode(reader);
  if (code == 0 && found == values && values != 0) return nullptr;
  if (code == 0 || found != 4) {
    reader.fail_at(position, "a result with a value or an error",
                   "code " + std::to_string(code) + " with " + std::to_string(found) + " parts");
  }
  Status status;
  status.code = static_cast<ErrorCode>(code);
  status.message = reader.string();
  status.type = reader.string();
  status.maybe_executed = reader.boolean();
  return make_error(status);
}

}  // namespace forge::detail
