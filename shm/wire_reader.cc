#include <forge/error.h>
#include <forge/wire.h>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "shm/wire_format.h"

namespace forge::detail {
namespace {

template <class T>
T get(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// What a value's first byte says; for ext values it takes the type too.
constexpr Kind kind_of(unsigned tag) {
  if (tag <= 0x7f || tag >= 0xe0) return Kind::integer;
  if (tag <= 0x8f) return Kind::map;
  if (tag <= 0x9f) return Kind::array;
  if (tag <= 0xbf) return Kind::string;
  if (tag == 0xc0) return Kind::nil;
  if (tag == 0xc2 || tag == 0xc3) return Kind::boolean;
  if (tag >= 0xc4 && tag <= 0xc6) return Kind::bytes;
  if (tag == 0xca || tag == 0xcb) return Kind::floating;
  if (tag >= 0xcc && tag <= 0xd3) return Kind::integer;
  if (tag >= 0xd9 && tag <= 0xdb) return Kind::string;
  if (tag == 0xdc || tag == 0xdd) return Kind::array;
  if (tag == 0xde || tag == 0xdf) return Kind::map;
  return Kind::unknown;  // 0xc1 is never used; c7 to c9 and d4 to d8 are ext
}
constexpr auto kKinds = [] {
  std::array<Kind, 256> kinds{};
  for (unsigned tag = 0; tag < kinds.size(); ++tag) kinds[tag] = kind_of(tag);
  return kinds;
}();

/// Bytes from an ext value's start to its type; 0 if it is no ext value.
std::size_t ext_type_at(std::uint8_t tag) {
  if (tag >= 0xd4 && tag <= 0xd8) return 1;
  return tag == 0xc7 ? 2 : tag == 0xc8 ? 3 : tag == 0xc9 ? 5 : 0;
}

Kind kind_of_ext(std::int8_t type) {
  switch (type) {
    case kExtBytes:
      return Kind::bytes;
    case kExtInlineNumbers:
    case kExtNumbers:
      return Kind::numbers;
    case kExtTensorInBlock:
    case kExtTensorInHome:
      return Kind::tensor;
    default:
      return Kind::unknown;
  }
}

bool is_number_dtype(std::uint8_t dtype) {
  return dtype < kDTypeCount && static_cast<DType>(dtype) != DType::boolean &&
         static_cast<DType>(dtype) != DType::f16 && static_cast<DType>(dtype) != DType::bf16;
}

}  // namespace

std::string_view to_string(Kind kind) noexcept {
  constexpr std::string_view kNames[] = {"the end",  "nil",      "a boolean", "an integer",
                                         "a float",  "a string", "bytes",     "numbers",
                                         "an array", "a map",    "a tensor",  "an unknown value"};
  return kNames[static_cast<std::size_t>(kind)];
}

void Reader::fail(std::string_view expected) const {
  fail_at(position(), expected, to_string(peek()));
}

void Reader::fail_at(std::size_t position, std::string_view expected,
                     std::string_view found) const {
  std::string text = "malformed payload at byte " + std::to_string(position) + " of " +
                     std::to_string(end_ - begin_) + ": expected ";
  ((text += expected) += ", found ") += found;
  throw InvalidArgument(text + "; sender and receiver must agree on the type");
}

void Reader::fail_take(std::uint64_t size, const char* expected) const {
  fail_at(position(), std::string(expected) + " of " + std::to_string(size) + " more bytes",
          std::to_string(remaining()) + " bytes");
}

/// A big-endian integer.
template <class T>
T Reader::load(const char* expected) {
  const T value = get<T>(take(sizeof(T), expected), 0);
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
  return value;
}

Kind Reader::peek() const {
  if (at_ == end_) return Kind::end;
  const auto tag = std::to_integer<std::uint8_t>(*at_);
  const std::size_t type_at = ext_type_at(tag);
  if (type_at == 0) return kKinds[tag];
  return type_at < remaining() ? kind_of_ext(static_cast<std::int8_t>(at_[type_at]))
                               : Kind::unknown;
}

void Reader::nil() {
  if (tag("nil") != 0xc0) fail("nil");
  ++at_;
  nesting_.done();
}

bool Reader::boolean() {
  const std::uint8_t found = tag("a boolean");
  if (found != 0xc2 && found != 0xc3) fail("a boolean");
  ++at_;
  nesting_.done();
  return found == 0xc3;
}

Reader::Integer Reader::any_integer(const char* expected) {
  const auto from_signed = [](std::int64_t value) {
    return Integer{static_cast<std::uint64_t>(value), value < 0};
  };
  const std::uint8_t found = tag(expected);
  if (kKinds[found] != Kind::integer) fail(expected);
  ++at_;
  nesting_.done();
  switch (found) {
    case 0xcc:
      return {load<std::uint8_t>(expected), false};
    case 0xcd:
      return {load<std::uint16_t>(expected), false};
    case 0xce:
      return {load<std::uint32_t>(expected), false};
    case 0xcf:
      return {load<std::uint64_t>(expected), false};
    case 0xd0:
      return from_signed(static_cast<std::int8_t>(load<std::uint8_t>(expected)));
    case 0xd1:
      return from_signed(static_cast<std::int16_t>(load<std::uint16_t>(expected)));
    case 0xd2:
      return from_signed(static_cast<std::int32_t>(load<std::uint32_t>(expected)));
    case 0xd3:
      return from_signed(static_cast<std::int64_t>(load<std::uint64_t>(expected)));
    default:
      return from_signed(static_cast<std::int8_t>(found));
  }
}

std::int64_t Reader::integer() {
  if (at_ != end_ && static_cast<std::int8_t>(*at_) >= -32) {  // the short form, most of the time
    nesting_.done();
    return static_cast<std::int8_t>(*at_++);
  }
  const Integer value = any_integer("an integer");
  const auto result = static_cast<std::int64_t>(value.bits);
  if (!value.negative && result < 0) throw_out_of_range(value.bits, "i64");
  return result;
}

std::uint64_t Reader::unsigned_integer() {
  const Integer value = any_integer("an integer");
  if (value.negative) throw_out_of_range(static_cast<std::int64_t>(value.bits), "u64");
  return value.bits;
}

double Reader::float64() {
  const std::uint8_t found = tag("a number");
  if (found == 0xca || found == 0xcb) {
    ++at_;
    nesting_.done();
    return found == 0xca ? std::bit_cast<float>(load<std::uint32_t>("a float"))
                         : std::bit_cast<double>(load<std::uint64_t>("a float"));
  }
  const Integer value = any_integer("a number");
  return value.negative ? static_cast<double>(static_cast<std::int64_t>(value.bits))
                        : static_cast<double>(value.bits);
}

std::string_view Reader::string() {
  const std::uint8_t found = tag("a string");
  if (kKinds[found] != Kind::string) fail("a string");
  ++at_;
  const std::uint64_t size = found == 0xd9   ? load<std::uint8_t>("a string")
                             : found == 0xda ? load<std::uint16_t>("a string")
                             : found == 0xdb ? load<std::uint32_t>("a string")
                                             : found & 0x1f;
  const std::span<const std::byte> text = take(size, "a string");
  nesting_.done();
  return {reinterpret_cast<const char*>(text.data()), text.size()};
}

/// A container of `count` parts begins. Each value takes at least a byte, so a count that the rest
/// of the input cannot hold is a lie.
std::size_t Reader::begin(std::uint64_t count, std::size_t values_each, const std::byte* start) {
  const auto where = static_cast<std::size_t>(start - begin_);
  if (count > remaining() / values_each) {
    fail_at(where, "at most " + std::to_string(remaining() / values_each) + " parts",
            std::to_string(count));
  }
  if (nesting_.full()) {
    fail_at(where, "at most " + std::to_string(kMaxDepth) + " levels", "one more");
  }
  nesting_.begin(count * values_each);
  return static_cast<std::size_t>(count);
}

std::size_t Reader::array() {
  const std::byte* start = at_;
  const std::uint8_t found = tag("an array");
  if (kKinds[found] != Kind::array) fail("an array");
  ++at_;
  return begin(found == 0xdc   ? load<std::uint16_t>("an array")
               : found == 0xdd ? load<std::uint32_t>("an array")
                               : found & 0xf,
               1, start);
}

std::size_t Reader::map() {
  const std::byte* start = at_;
  const std::uint8_t found = tag("a map");
  if (kKinds[found] != Kind::map) fail("a map");
  ++at_;
  return begin(found == 0xde   ? load<std::uint16_t>("a map")
               : found == 0xdf ? load<std::uint32_t>("a map")
                               : found & 0xf,
               2, start);
}

/// Precondition: the next value is an ext value.
Reader::Ext Reader::ext(const char* expected) {
  const std::uint8_t found = tag(expected);
  ++at_;
  const std::uint64_t size = found == 0xc7   ? load<std::uint8_t>(expected)
                             : found == 0xc8 ? load<std::uint16_t>(expected)
                             : found == 0xc9 ? load<std::uint32_t>(expected)
                                             : std::uint64_t{1} << (found - 0xd4);
  const auto type = static_cast<std::int8_t>(load<std::uint8_t>(expected));
  const std::span<const std::byte> body = take(size, expected);
  nesting_.done();
  return {type, body};
}

std::span<const std::byte> Reader::blob(std::uint64_t offset, std::uint64_t size) const {
  if (offset % kBlockAlignment != 0 || offset > blobs_.size() || size > blobs_.size() - offset) {
    fail_at(position(), "a reference into " + std::to_string(blobs_.size()) + " bytes",
            std::to_string(size) + " bytes at " + std::to_string(offset));
  }
  return blobs_.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
}

std::span<const std::byte> Reader::bytes() {
  if (peek() != Kind::bytes) fail("bytes");
  const std::uint8_t found = tag("bytes");
  if (found >= 0xc4 && found <= 0xc6) {
    ++at_;
    const std::uint64_t size = found == 0xc4   ? load<std::uint8_t>("bytes")
                               : found == 0xc5 ? load<std::uint16_t>("bytes")
                                               : load<std::uint32_t>("bytes");
    const std::span<const std::byte> taken = take(size, "bytes");
    nesting_.done();
    return taken;
  }
  const Ext reference = ext("bytes");
  if (reference.body.size() != kReferenceSize) {
    fail_at(position(), "a reference before this", "one of the wrong size");
  }
  return blob(get<std::uint64_t>(reference.body, 0), get<std::uint64_t>(reference.body, 8));
}

Numbers Reader::numbers() {
  const Kind kind = peek();
  if (kind == Kind::bytes) return {DType::u8, bytes()};
  if (kind != Kind::numbers) fail("numbers");
  const Ext block = ext("numbers");
  if (block.body.empty() || !is_number_dtype(get<std::uint8_t>(block.body, 0))) {
    fail_at(position(), "numbers before this", "elements of no numeric type");
  }
  Numbers result{static_cast<DType>(block.body[0]), block.body.subspan(1)};
  if (block.type == kExtNumbers) {
    if (result.bytes.size() != kReferenceSize) {
      fail_at(position(), "a reference before this", "one of the wrong size");
    }
    result.bytes = blob(get<std::uint64_t>(result.bytes, 0), get<std::uint64_t>(result.bytes, 8));
  }
  if (result.bytes.size() % size_of(result.dtype) != 0) {
    fail_at(position(), "whole elements before this", "part of one");
  }
  return result;
}

Tensor Reader::tensor() {
  if (peek() != Kind::tensor) fail("a tensor");
  const Ext reference = ext("a tensor");
  const std::span<const std::byte> body = reference.body;
  const std::size_t dims = body.size() < kTensorHeadSize ? 0 : get<std::uint8_t>(body, 1);
  if (dims > Tensor::kMaxDims || body.size() != kTensorHeadSize + 8 * dims ||
      get<std::uint8_t>(body, 0) >= kDTypeCount) {
    fail_at(position(), "a tensor before this", "a damaged description of one");
  }
  const auto dtype = get<DType>(body, 0);
  const auto offset = get<std::uint64_t>(body, 2);
  const auto size = get<std::uint64_t>(body, 10);
  std::array<std::int64_t, Tensor::kMaxDims> lengths;
  for (std::size_t i = 0; i < dims; ++i) {
    lengths[i] = get<std::int64_t>(body, kTensorHeadSize + 8 * i);
  }
  const std::span<const std::int64_t> shape(lengths.data(), dims);
  const auto count = element_count(dtype, shape);
  if (!count || *count * size_of(dtype) != size) {
    fail_at(position(), "a tensor before this", "a shape that is not of its size");
  }
  if (reference.type == kExtTensorInBlock) blob(offset, size);  // for its check
  if (!source_) fail_at(position(), "a payload without tensors", "a tensor before this");
  return reference.type == kExtTensorInBlock ? source_->in_block(offset, size, dtype, shape)
                                             : source_->in_home(offset, size, dtype, shape);
}

void Reader::skip() {
  const std::size_t depth = nesting_.depth();
  do {
    const std::uint8_t found = tag("a value");
    if (ext_type_at(found) != 0) {
      ext("a value");
      continue;
    }
    switch (kKinds[found]) {
      case Kind::nil:
        nil();
        break;
      case Kind::boolean:
        boolean();
        break;
      case Kind::integer:
        any_integer("a value");
        break;
      case Kind::floating:
        float64();
        break;
      case Kind::string:
        string();
        break;
      case Kind::bytes:
        bytes();
        break;
      case Kind::array:
        array();
        break;
      case Kind::map:
        map();
        break;
      default:
        fail("a value");
    }
  } while (nesting_.depth() > depth);
}

void Reader::finish() const {
  if (!at_end()) fail("the end");
}

}  // namespace forge::detail
