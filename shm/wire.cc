#include <forge/error.h>
#include <forge/wire.h>
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <msgpack.hpp>
#include <string>

#include "shm/wire_format.h"

namespace forge::detail {
namespace {

/// A body under construction, of fixed maximum size, so that it needs no heap.
struct ExtBody {
  template <class T>
  void put(T value) {
    std::memcpy(bytes.data() + size, &value, sizeof(T));
    size += sizeof(T);
  }
  void put(std::span<const std::byte> more) {
    if (!more.empty()) std::memcpy(bytes.data() + size, more.data(), more.size());
    size += more.size();
  }
  std::array<std::byte, 1 + kMaxInlineBytes> bytes;
  std::size_t size = 0;
};
static_assert(kTensorHeadSize + 8 * Tensor::kMaxDims <= 1 + kMaxInlineBytes);

std::uint32_t checked_size(std::size_t size, const char* what) {
  if (size > std::numeric_limits<std::uint32_t>::max()) {
    throw PayloadTooLarge(std::string(what) + " with " + std::to_string(size) +
                          " parts or bytes cannot be encoded; the limit is 4294967295: "
                          "send a Tensor or Bytes, or split it");
  }
  return static_cast<std::uint32_t>(size);
}

}  // namespace

void Writer::Head::grow(std::size_t count) {
  const std::size_t wanted = std::max<std::size_t>({size + count, 2 * capacity, 512});
  auto larger = std::make_unique_for_overwrite<std::byte[]>(wanted);
  if (size != 0) std::memcpy(larger.get(), data.get(), size);
  data = std::move(larger);
  capacity = wanted;
}

void Writer::reset(const void* home) {
  head_.size = 0;
  nesting_.clear();
  spans_.clear();
  blob_size_ = 0;
  span_bytes_ = 0;
  home_ = home;
  gate_ = nullptr;
  residents_.clear();
}

void Writer::begin(std::uint64_t values) {
  if (nesting_.full()) {
    throw InvalidArgument("the value is nested more than " + std::to_string(kMaxDepth) +
                          " levels deep; flatten it");
  }
  nesting_.begin(values);
}

void Writer::nil() {
  msgpack::packer<Head>(head_).pack_nil();
  nesting_.done();
}

void Writer::boolean(bool value) {
  msgpack::packer<Head> packer(head_);
  value ? packer.pack_true() : packer.pack_false();
  nesting_.done();
}

void Writer::integer(std::int64_t value) {
  msgpack::packer<Head>(head_).pack_int64(value);
  nesting_.done();
}

void Writer::unsigned_integer(std::uint64_t value) {
  msgpack::packer<Head>(head_).pack_uint64(value);
  nesting_.done();
}

// By hand: msgpack-cxx writes 2.0 as the integer 2, which loses the sign of -0.0.
void Writer::float32(float value) {
  tagged(0xca, __builtin_bswap32(std::bit_cast<std::uint32_t>(value)));
}

void Writer::float64(double value) {
  tagged(0xcb, __builtin_bswap64(std::bit_cast<std::uint64_t>(value)));
}

template <class T>
void Writer::tagged(std::uint8_t tag, T big_endian) {
  char bytes[1 + sizeof(T)];
  bytes[0] = static_cast<char>(tag);
  std::memcpy(bytes + 1, &big_endian, sizeof(T));
  head_.write(bytes, sizeof(bytes));
  nesting_.done();
}

void Writer::string(std::string_view text) {
  const std::uint32_t size = checked_size(text.size(), "a string");
  msgpack::packer<Head> packer(head_);
  packer.pack_str(size);
  if (size != 0) packer.pack_str_body(text.data(), size);
  nesting_.done();
}

void Writer::array(std::size_t count) {
  const std::uint32_t checked = checked_size(count, "an array");
  begin(checked);
  msgpack::packer<Head>(head_).pack_array(checked);
}

void Writer::map(std::size_t count) {
  const std::uint32_t checked = checked_size(count, "a map");
  begin(std::uint64_t{2} * checked);
  msgpack::packer<Head>(head_).pack_map(checked);
}

void Writer::ext(std::int8_t type, const std::byte* body, std::size_t size) {
  msgpack::packer<Head> packer(head_);
  packer.pack_ext(size, type);
  packer.pack_ext_body(reinterpret_cast<const char*>(body), static_cast<std::uint32_t>(size));
  nesting_.done();
}

std::uint64_t Writer::remember(std::span<const std::byte> bytes) {
  if (bytes.empty()) return 0;
  const std::size_t offset = align_up(blob_size_, kBlockAlignment);
  spans_.push_back({bytes.data(), bytes.size(), offset});
  blob_size_ = offset + bytes.size();
  span_bytes_ += bytes.size();
  return offset;
}

void Writer::bytes(std::span<const std::byte> bytes) {
  if (bytes.size() <= kMaxInlineBytes) {
    const auto size = static_cast<std::uint32_t>(bytes.size());
    msgpack::packer<Head> packer(head_);
    packer.pack_bin(size);
    if (size != 0) packer.pack_bin_body(reinterpret_cast<const char*>(bytes.data()), size);
    return nesting_.done();
  }
  ExtBody body;
  body.put(remember(bytes));
  body.put(std::uint64_t{bytes.size()});
  ext(kExtBytes, body.bytes.data(), body.size);
}

void Writer::numbers(DType dtype, std::span<const std::byte> bytes) {
  ExtBody body;
  body.put(dtype);
  if (bytes.size() <= kMaxInlineBytes) {
    body.put(bytes);
    return ext(kExtInlineNumbers, body.bytes.data(), body.size);
  }
  body.put(remember(bytes));
  body.put(std::uint64_t{bytes.size()});
  ext(kExtNumbers, body.bytes.data(), body.size);
}

void Writer::tensor(const Tensor& tensor) {
  if (tensor.device() >= 0 && gate_ != nullptr) return this->tensor(gate_->leave(tensor));
  const std::span<const std::byte> bytes = tensor.bytes();
  const TensorStorage* storage = tensor.storage().get();
  const bool at_home = home_ && storage && storage->home == home_;
  ExtBody body;
  body.put(tensor.dtype());
  body.put(static_cast<std::uint8_t>(tensor.shape().size()));
  body.put(at_home ? storage->home_offset + tensor.byte_offset() : remember(bytes));
  body.put(std::uint64_t{bytes.size()});
  for (const std::int64_t length : tensor.shape()) body.put(length);
  if (at_home) residents_.push_back(tensor);
  ext(at_home ? kExtTensorInHome : kExtTensorInBlock, body.bytes.data(), body.size);
}

std::size_t Writer::block_size() const {
  return has_blobs() ? align_up(head_.size, kBlockAlignment) + blob_size_ : head_.size;
}

void Writer::write_to(std::byte* block) const {
  if (head_.size != 0) std::memcpy(block, head_.data.get(), head_.size);
  std::byte* blobs = block + align_up(head_.size, kBlockAlignment);
  for (const Span& span : spans_) std::memcpy(blobs + span.offset, span.data, span.size);
}

}  // namespace forge::detail
