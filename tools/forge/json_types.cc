#include "tools/forge/json_types.h"

#include <forge/error.h>

#include <array>
#include <cctype>
#include <cmath>
#include <limits>
#include <span>

namespace forge::tool {
namespace {

using core::Json;
using Kind = Type::Kind;

constexpr std::size_t kDeepest = 64;

/// Recursive descent over the grammar in forge/payload.h.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Type type() {
    if (++depth_ > kDeepest) fail();
    const std::size_t begin = at_;
    Type result = plain();
    while (is('?') || is('!')) {
      Type outer;
      outer.kind = is('?') ? Kind::optional : Kind::result;
      ++at_;
      outer.parts.push_back(std::move(result));
      result = std::move(outer);
    }
    result.name = text_.substr(begin, at_ - begin);
    --depth_;
    return result;
  }
  SignatureTypes signature() {
    SignatureTypes result{type(), {}};
    take('(');
    while (!is(')')) {
      result.arguments.push_back(type());
      if (!is(')')) take(',');
    }
    take(')');
    return result;
  }
  void finish() const {
    if (at_ != text_.size()) fail();
  }

 private:
  bool is(char c) const { return at_ < text_.size() && text_[at_] == c; }
  void take(char c) {
    if (!is(c)) fail();
    ++at_;
  }
  [[noreturn]] void fail() const {
    throw InvalidArgument("'" + std::string(text_) + "' is no type that forge call knows (at " +
                          std::to_string(at_) + ")");
  }
  std::string_view word() {
    const std::size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '_'))
      ++at_;
    return text_.substr(begin, at_ - begin);
  }
  std::size_t number() {
    std::size_t value = 0;
    for (const char digit : word()) {
      if (std::isdigit(static_cast<unsigned char>(digit)) == 0 || value > 1'000'000'000) fail();
      value = value * 10 + static_cast<std::size_t>(digit - '0');
    }
    return value;
  }

  Type plain() {
    if (is('[')) return list();
    if (is('(')) return group();
    if (is('{')) return braces();
    Type result;
    if (is('^')) {
      ++at_;
      result.kind = Kind::enclosing;
      result.count = number();
      return result;
    }
    const std::string_view name = word();
    if (name == "void") {
      result.kind = Kind::nothing;
    } else if (name == "bool") {
      result.kind = Kind::boolean;
    } else if (name == "str") {
      result.kind = Kind::text;
    } else if (name == "bytes") {
      result.kind = Kind::bytes;
    } else if (name == "tensor") {
      result.kind = Kind::tensor;
    } else if (name == "f32" || name == "f64") {
      result.kind = Kind::floating;
    } else if (name.size() >= 2 && (name[0] == 'i' || name[0] == 'u')) {
      result.kind = Kind::integer;
      result.is_signed = name[0] == 'i';
      --at_;  // the digits again
      at_ -= name.size() - 2;
      result.count = number();
      if (result.count != 8 && result.count != 16 && result.count != 32 && result.count != 64)
        fail();
    } else {
      fail();
    }
    return result;
  }
  Type list() {
    take('[');
    Type result;
    result.kind = Kind::list;
    result.parts.push_back(type());
    if (is(';')) {
      ++at_;
      result.count = number();
      result.is_signed = true;  // there must be so many
    }
    take(']');
    return result;
  }
  Type group() {
    take('(');
    Type result;
    result.kind = Kind::tuple;
    while (!is(')')) {
      result.parts.push_back(type());
      if (is('|')) result.kind = Kind::variant;
      if (is('|') || is(',')) ++at_;
    }
    take(')');
    return result;
  }
  Type braces() {
    take('{');
    Type result;
    result.kind = Kind::structure;
    while (!is('}')) {
      result.fields.emplace_back(word());
      take(':');
      result.parts.push_back(type());
      if (!is('}')) take(',');
    }
    take('}');
    // A map is written like a structure with one field called str.
    if (result.fields.size() == 1 && result.fields[0] == "str") result.kind = Kind::map;
    return result;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
};

/// A type, and the structures around it.
struct Inside {
  const Type* structure;
  const Inside* outer;
};

const Type& resolve(const Type& type, const Inside*& inside) {
  if (type.kind != Kind::enclosing) return type;
  for (std::size_t level = 1; level < type.count && inside != nullptr; ++level)
    inside = inside->outer;
  if (inside == nullptr) throw InvalidArgument("the type " + type.name + " refers to nothing");
  const Type& found = *inside->structure;
  inside = inside->outer;
  return found;
}

[[noreturn]] void mismatch(const std::string& where, const Type& type, const Json& value) {
  throw InvalidArgument(where + " is " +
                        value.dump(-1, ' ', false, Json::error_handler_t::replace) +
                        ", but a value of type " + type.name + " is wanted");
}

bool may_be_nil(const Type& type) {
  return type.kind == Kind::nothing || type.kind == Kind::optional;
}

class Encoder {
 public:
  Encoder(detail::Writer& writer, const std::string& where) : writer_(writer), where_(where) {}

  void put(const Type& wanted, const Json& value, const Inside* inside) {
    const Type& type = resolve(wanted, inside);
    const auto need = [&](bool fits) {
      if (!fits) mismatch(where_, type, value);
    };
    switch (type.kind) {
      case Kind::nothing:
        need(value.is_null());
        return writer_.nil();
      case Kind::boolean:
        need(value.is_boolean());
        return writer_.boolean(value.get<bool>());
      case Kind::integer:
        return integer(type, value);
      case Kind::floating:
        need(value.is_number());
        return writer_.float64(value.get<double>());
      case Kind::text:
        need(value.is_string());
        return writer_.string(value.get_ref<const std::string&>());
      case Kind::bytes:
        need(value.is_string());
        return writer_.bytes(std::as_bytes(std::span(value.get_ref<const std::string&>())));
      case Kind::optional:
        if (value.is_null()) return writer_.nil();
        if (may_be_nil(type.parts[0])) writer_.array(1);
        return put(type.parts[0], value, inside);
      case Kind::list:
        need(value.is_array() && (!type.is_signed || value.size() == type.count));
        writer_.array(value.size());
        for (const Json& element : value) put(type.parts[0], element, inside);
        return;
      case Kind::map:
        need(value.is_object());
        writer_.map(value.size());
        for (const auto& [key, mapped] : value.items()) {
          writer_.string(key);
          put(type.parts[0], mapped, inside);
        }
        return;
      case Kind::tuple:
        need(value.is_array() && value.size() == type.parts.size());
        writer_.array(value.size());
        for (std::size_t i = 0; i < value.size(); ++i) put(type.parts[i], value[i], inside);
        return;
      case Kind::variant: {
        need(value.is_array() && value.size() == 2 && value[0].is_number_unsigned() &&
             value[0].get<std::size_t>() < type.parts.size());
        const auto index = value[0].get<std::size_t>();
        writer_.array(2);
        writer_.unsigned_integer(index);
        return put(type.parts[index], value[1], inside);
      }
      case Kind::structure:
        return structure(type, value, inside);
      default:
        throw NotSupported(where_ + " is of type " + type.name +
                           ", which cannot be given on a command line; call it from a program");
    }
  }

 private:
  void integer(const Type& type, const Json& value) {
    if (!value.is_number_integer()) mismatch(where_, type, value);
    const bool large = value.is_number_unsigned() &&
                       value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max();
    if (type.is_signed && !large) return writer_.integer(value.get<std::int64_t>());
    if (!type.is_signed && (large || value.get<std::int64_t>() >= 0))
      return writer_.unsigned_integer(value.get<std::uint64_t>());
    mismatch(where_, type, value);
  }
  /// An object, or an array of the fields in their order.
  void structure(const Type& type, const Json& value, const Inside* outer) {
    const Inside inside{&type, outer};
    if ((!value.is_object() && !value.is_array()) || value.size() != type.parts.size())
      mismatch(where_, type, value);
    writer_.array(type.parts.size());
    for (std::size_t i = 0; i < type.parts.size(); ++i) {
      if (value.is_object() && !value.contains(type.fields[i])) mismatch(where_, type, value);
      put(type.parts[i], value.is_object() ? value.at(type.fields[i]) : value[i], &inside);
    }
  }

  detail::Writer& writer_;
  const std::string& where_;
};

// ---- reading

Json numbers_json(const detail::Numbers& numbers) {
  Json result = Json::array();
  const bool real = numbers.dtype == DType::f16 || numbers.dtype == DType::bf16 ||
                    numbers.dtype == DType::f32 || numbers.dtype == DType::f64;
  const auto read_as = [&]<class T>(DType dtype, T) {
    std::vector<T> values(numbers.count());
    detail::convert_numbers(numbers, dtype, std::as_writable_bytes(std::span(values)));
    for (const T value : values) result.push_back(value);
  };
  if (real) {
    read_as(DType::f64, double{});
  } else if (numbers.dtype == DType::u64) {
    read_as(DType::u64, std::uint64_t{});
  } else {
    read_as(DType::i64, std::int64_t{});
  }
  return result;
}

Json tensor_json(const Tensor& tensor) {
  Json json{{"dtype", std::string(to_string(tensor.dtype()))},
            {"shape", std::vector<std::int64_t>(tensor.shape().begin(), tensor.shape().end())}};
  if (tensor.dtype() == DType::boolean || tensor.dtype() == DType::f16 ||
      tensor.dtype() == DType::bf16) {
    json["bytes"] = tensor.bytes().size();
  } else {
    json["data"] = numbers_json({tensor.dtype(), tensor.bytes()});
  }
  return json;
}

Json bytes_json(std::span<const std::byte> bytes) {
  Json json(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  try {
    (void)json.dump();
    return json;
  } catch (const Json::exception&) {  // it is no text
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string hex;
    for (const std::byte byte : bytes) {
      hex += kDigits[std::to_integer<unsigned>(byte) >> 4U];
      hex += kDigits[std::to_integer<unsigned>(byte) & 15U];
    }
    return {{"hex", hex}};
  }
}

Json get(detail::Reader& reader, const Type& wanted, const Inside* inside);

Json elements(detail::Reader& reader, const Type& type, const Inside* inside) {
  if (reader.peek() == detail::Kind::numbers) return numbers_json(reader.numbers());
  Json result = Json::array();
  for (std::size_t left = reader.array(); left != 0; --left)
    result.push_back(get(reader, type, inside));
  return result;
}

Json parts(detail::Reader& reader, const Type& type, const Inside* inside) {
  if (reader.array() != type.parts.size()) reader.fail(type.name);
  Json result = Json::array();
  for (const Type& part : type.parts) result.push_back(get(reader, part, inside));
  return result;
}

Json result_json(detail::Reader& reader, const Type& type, const Inside* inside) {
  const bool nothing = type.parts[0].kind == Kind::nothing;
  if (auto error = detail::read_error(reader, nothing ? 1 : 2))
    return {{"error", std::string(error->code())}, {"message", error->what()}};
  return nothing ? Json(nullptr) : get(reader, type.parts[0], inside);
}

Json get(detail::Reader& reader, const Type& wanted, const Inside* inside) {
  const Type& type = resolve(wanted, inside);
  switch (type.kind) {
    case Kind::nothing:
      return reader.nil(), nullptr;
    case Kind::boolean:
      return reader.boolean();
    case Kind::integer:
      return type.is_signed ? Json(reader.integer()) : Json(reader.unsigned_integer());
    case Kind::floating:
      return reader.float64();
    case Kind::text:
      return std::string(reader.string());
    case Kind::bytes:
      return bytes_json(reader.bytes());
    case Kind::tensor:
      return tensor_json(reader.tensor());
    case Kind::list:
      return elements(reader, type.parts[0], inside);
    case Kind::tuple:
      return parts(reader, type, inside);
    case Kind::map: {
      Json result = Json::object();
      for (std::size_t left = reader.map(); left != 0; --left) {
        const std::string key(reader.string());
        result[key] = get(reader, type.parts[0], inside);
      }
      return result;
    }
    case Kind::optional: {
      if (reader.peek() == detail::Kind::nil) return reader.nil(), nullptr;
      if (may_be_nil(type.parts[0]) && reader.array() != 1) reader.fail(type.name);
      return get(reader, type.parts[0], inside);
    }
    case Kind::variant: {
      if (reader.array() != 2) reader.fail(type.name);
      const std::uint64_t index = reader.unsigned_integer();
      if (index >= type.parts.size()) reader.fail(type.name);
      return Json::array({index, get(reader, type.parts[index], inside)});
    }
    case Kind::structure: {
      const Inside here{&type, inside};
      Json values = parts(reader, type, &here);
      Json result = Json::object();
      for (std::size_t i = 0; i < type.fields.size(); ++i) result[type.fields[i]] = values[i];
      return result;
    }
    case Kind::result:
      return result_json(reader, type, inside);
    case Kind::enclosing:
      break;  // resolve() gives none
  }
  reader.fail("a value");
}

}  // namespace

Type parse_type(std::string_view text) {
  Parser parser(text);
  Type type = parser.type();
  parser.finish();
  return type;
}

SignatureTypes parse_signature(std::string_view text) {
  Parser parser(text);
  SignatureTypes signature = parser.signature();
  parser.finish();
  return signature;
}

Json parse_argument(const Type& type, const std::string& text) {
  Json value = Json::parse(text, nullptr, false);
  const bool optional = type.kind == Kind::optional;
  const Type& inner = optional ? type.parts[0] : type;
  const bool textual = inner.kind == Kind::text || inner.kind == Kind::bytes;
  if (textual && !value.is_string() && !(optional && value.is_null())) return text;
  if (value.is_discarded()) {
    throw InvalidArgument("'" + text + "' is not JSON; a value of type " + type.name +
                          " is wanted (mind the shell's quotes)");
  }
  return value;
}

void encode(detail::Writer& writer, const Type& type, const Json& value, const std::string& where) {
  Encoder(writer, where).put(type, value, nullptr);
}

Json decode(detail::Reader& reader, const Type& type) { return get(reader, type, nullptr); }

}  // namespace forge::tool
