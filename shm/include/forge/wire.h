// The wire form: how values are laid out for the other process. Written by Writer, read by Reader.
//
// The head is one MessagePack value after another. What is large stays out of band: the head only
// holds a reference, and the bytes follow it in the same block, each span 64-aligned. Tensors that
// already lie in memory both sides map ("home") are not moved at all.
//
//     block:  head | pad | span 0 | pad | span 1 ...      references count from the first pad's end
//
// References are ext values: see the table in wire.cc. A Reader trusts nothing: whatever the bytes
// are, it returns a value or throws InvalidArgument, and never looks outside of them.
#pragma once

#include <forge/tensor.h>
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace forge::detail {

inline constexpr std::size_t kBlockAlignment = 64;
inline constexpr std::size_t kMaxInlineBytes = 256;
inline constexpr std::size_t kMaxDepth = 64;  ///< arrays and maps inside each other

constexpr std::size_t align_up(std::size_t size, std::size_t alignment) {
  return (size + alignment - 1) & ~(alignment - 1);
}

/// Counts the values still to come in every open array or map, so that depth is always known.
class Nesting {
 public:
  std::size_t depth() const { return depth_; }
  bool full() const { return depth_ == kMaxDepth; }
  void clear() { depth_ = 0; }

  /// One value is complete.
  void done() {
    while (depth_ != 0 && --left_[depth_ - 1] == 0) --depth_;
  }
  /// A container of `count` values begins. Precondition: !full().
  void begin(std::uint64_t count) {
    if (count == 0) return done();
    left_[depth_++] = count;
  }

 private:
  std::size_t depth_ = 0;
  std::array<std::uint64_t, kMaxDepth> left_;  // [0, depth_) are set, each >= 1
};

/// Where the tensors of one call change sides, in a worker that has a device. Lives as long as the
/// call.
struct TensorGate {
  /// The arguments have been decoded: those tensors among them that still exist go to the device.
  virtual void arrive() = 0;
  /// What is encoded for a tensor of a result: one that the host can read when the answer leaves.
  virtual Tensor leave(const Tensor& tensor) = 0;

 protected:
  ~TensorGate() = default;
};

/// Encodes values one after another. Reusable; once its buffers have grown it does not touch the
/// heap. Out-of-band spans are remembered, not copied: they must live until write_to.
class Writer {
 public:
  Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  /// Starts a new message. Tensors in `home` are encoded by offset; null: there is no such memory.
  /// Also lets go of the residents, so call it when a message has been sent.
  void reset(const void* home = nullptr);
  /// Starts the next message with the same home. Tensors on a device go through `gate`; without one
  /// they are refused.
  void restart(TensorGate* gate = nullptr) {
    reset(home_);
    gate_ = gate;
  }

  void nil();
  void boolean(bool value);
  void integer(std::int64_t value);
  void unsigned_integer(std::uint64_t value);
  void float32(float value);
  void float64(double value);
  void string(std::string_view text);
  void array(std::size_t count);  ///< `count` values follow
  void map(std::size_t count);    ///< `count` times key and value follow
  /// At most kMaxInlineBytes go into the head, more stay out of band.
  void bytes(std::span<const std::byte> bytes);
  /// Elements of one numeric type, as `bytes` goes.
  void numbers(DType dtype, std::span<const std::byte> bytes);
  /// In home: by offset, and the tensor joins residents(). Else out of band.
  void tensor(const Tensor& tensor);

  std::span<const std::byte> head() const { return {head_.data.get(), head_.size}; }
  /// Bytes of a block that holds head and out-of-band spans.
  std::size_t block_size() const;
  bool has_blobs() const { return blob_size_ != 0; }
  /// Copies all of it to `block`, which has room for block_size() bytes.
  void write_to(std::byte* block) const;
  /// What write_to copies, padding aside.
  std::uint64_t copied_bytes() const { return head_.size + span_bytes_; }
  /// Tensors in home that the message refers to; whoever sends it keeps them alive meanwhile.
  std::vector<Tensor>& residents() { return residents_; }

 private:
  struct Head {
    void write(const char* bytes, std::size_t count) {
      if (count > capacity - size) grow(count);
      std::memcpy(data.get() + size, bytes, count);
      size += count;
    }
    void grow(std::size_t count);

    std::unique_ptr<std::byte[]> data;
    std::size_t size = 0;
    std::size_t capacity = 0;
  };
  struct Span {
    const std::byte* data;
    std::size_t size;
    std::size_t offset;
  };

  template <class T>
  void tagged(std::uint8_t tag, T big_endian);
  void ext(std::int8_t type, const std::byte* body, std::size_t size);
  void begin(std::uint64_t values);
  std::uint64_t remember(std::span<const std::byte> bytes);

  Head head_;
  Nesting nesting_;
  std::vector<Span> spans_;
  std::size_t blob_size_ = 0;     // end of the last span, from the start of the first
  std::uint64_t span_bytes_ = 0;  // of all spans, without padding
  const void* home_ = nullptr;
  TensorGate* gate_ = nullptr;
  std::vector<Tensor> residents_;
};

/// Makes tensors of what a message refers to. Offsets and sizes come from the message: a source
/// checks them against its memory and throws InvalidArgument if they leave it.
struct TensorSource {
  virtual ~TensorSource() = default;
  /// `offset` counts from the start of the blobs.
  virtual Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                          std::span<const std::int64_t> shape) = 0;
  /// `offset` counts from the start of the memory that was the writer's home.
  virtual Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                         std::span<const std::int64_t> shape) = 0;
};

/// What the next value is.
enum class Kind : std::uint8_t {
  end,
  nil,
  boolean,
  integer,
  floating,
  string,
  bytes,
  numbers,
  array,
  map,
  tensor,
  unknown,  ///< an ext type forge does not know; can be skipped
};
std::string_view to_string(Kind kind) noexcept;

/// Elements of one integer or floating type, whole ones, not necessarily aligned.
struct Numbers {
  DType dtype;
  std::span<const std::byte> bytes;

  std::size_t count() const { return bytes.size() / size_of(dtype); }
};
/// Copies the elements to `out`, which has room for them, as elements of type `to`. Throws
/// InvalidArgument if one does not fit there.
void convert_numbers(const Numbers& from, DType to, std::span<std::byte> out);
/// Throws InvalidArgument: the value does not fit the type.
[[noreturn]] void throw_out_of_range(std::int64_t value, std::string_view type);
[[noreturn]] void throw_out_of_range(std::uint64_t value, std::string_view type);
[[noreturn]] void throw_out_of_range(double value, std::string_view type);

/// The out-of-band part of a block whose head has `head_size` bytes; empty if there is none.
constexpr std::span<const std::byte> blobs_of(std::span<const std::byte> block,
                                              std::size_t head_size) {
  return block.subspan(std::min(align_up(head_size, kBlockAlignment), block.size()));
}

/// Pulls values out of bytes that another process wrote. Views it returns point into those bytes.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> head, std::span<const std::byte> blobs = {},
                  TensorSource* source = nullptr)
      : begin_(head.data()),
        at_(head.data()),
        end_(head.data() + head.size()),
        blobs_(blobs),
        source_(source) {}

  Kind peek() const;
  bool at_end() const { return at_ == end_; }
  /// Bytes of the head that have been read, and that have not.
  std::size_t position() const { return static_cast<std::size_t>(at_ - begin_); }
  std::size_t remaining() const { return static_cast<std::size_t>(end_ - at_); }

  void nil();
  bool boolean();
  std::int64_t integer();
  std::uint64_t unsigned_integer();
  /// Accepts float32 and integers.
  double float64();
  std::string_view string();
  /// The number of values that follow, never more than there are bytes left.
  std::size_t array();
  /// The number of pairs that follow, likewise.
  std::size_t map();
  std::span<const std::byte> bytes();
  Numbers numbers();
  Tensor tensor();
  /// Skips one value with all that is inside.
  void skip();
  /// Throws unless everything has been read.
  void finish() const;

  /// Throws InvalidArgument about the value that is next (or was, at `position`).
  [[noreturn]] void fail(std::string_view expected) const;
  [[noreturn]] void fail_at(std::size_t position, std::string_view expected,
                            std::string_view found) const;

 private:
  struct Integer {
    std::uint64_t bits;  // two's complement
    bool negative;
  };
  struct Ext {
    std::int8_t type;
    std::span<const std::byte> body;
  };

  /// The first byte of the next value.
  std::uint8_t tag(const char* expected) const {
    if (at_ == end_) fail(expected);
    return static_cast<std::uint8_t>(*at_);
  }
  /// The next `size` bytes.
  std::span<const std::byte> take(std::uint64_t size, const char* expected) {
    if (size > remaining()) fail_take(size, expected);
    const std::byte* first = at_;
    at_ += size;
    return {first, static_cast<std::size_t>(size)};
  }
  [[noreturn]] void fail_take(std::uint64_t size, const char* expected) const;
  template <class T>
  T load(const char* expected);
  Integer any_integer(const char* expected);
  Ext ext(const char* expected);
  std::size_t begin(std::uint64_t count, std::size_t values_each, const std::byte* start);
  std::span<const std::byte> blob(std::uint64_t offset, std::uint64_t size) const;

  const std::byte* begin_;
  const std::byte* at_;
  const std::byte* end_;
  std::span<const std::byte> blobs_;
  TensorSource* source_;
  Nesting nesting_;
};

}  // namespace forge::detail
