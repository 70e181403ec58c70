// Arbitrary bytes as a payload. Input: type, misalignment, u16 size of the head, head, blobs.
#include <forge/error.h>

#include <memory>
#include <new>
#include <type_traits>

#include "tests/fuzz/payloads.h"

namespace forge::fuzz {
namespace {

using detail::Reader;

/// A block's out-of-band bytes, which end where a sanitizer sees it.
class Blobs final : public detail::TensorSource {
 public:
  Blobs(std::span<const std::byte> bytes, std::size_t misalignment)
      : memory_(static_cast<std::byte*>(
            ::operator new (misalignment + bytes.size(), std::align_val_t{64}))),
        bytes_(memory_.get() + misalignment, bytes.size()) {
    std::ranges::copy(bytes, bytes_.begin());
  }
  std::span<const std::byte> bytes() const { return bytes_; }

  Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                  std::span<const std::int64_t> shape) override {
    require(offset <= bytes_.size() && size <= bytes_.size() - offset, "a reference is checked");
    auto storage = std::make_shared<Storage>();
    storage->data = bytes_.data() + offset;
    storage->size = size;
    storage->frozen.store(true);
    return Tensor::adopt(std::move(storage), dtype, shape);
  }
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                 std::span<const std::int64_t> shape) override {
    if (offset > bytes_.size() || size > bytes_.size() - offset) {
      throw InvalidArgument("outside of home");
    }
    return in_block(offset, size, dtype, shape);
  }

 private:
  struct Storage final : detail::TensorStorage {};
  struct Free {
    void operator()(std::byte* bytes) const { ::operator delete (bytes, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::span<std::byte> bytes_;
};

struct Encoded {
  std::vector<std::byte> block;
  std::size_t head = 0;
  bool operator==(const Encoded&) const = default;
};

template <class T>
Encoded encode(const T& value) {
  detail::Writer writer;
  writer.reset();
  detail::Codec<T>::encode(writer, value);
  Encoded result{std::vector<std::byte>(writer.block_size()), writer.head().size()};
  writer.write_to(result.block.data());
  return result;
}

/// What can be read can be written, and reads back as the same.
template <class T>
void check_round_trip(const T& value) {
  const Encoded first = encode(value);
  Blobs blobs(detail::blobs_of(first.block, first.head), 0);
  Reader reader(std::span(first.block).first(first.head), blobs.bytes(), &blobs);
  const T again = detail::Codec<T>::decode(reader);
  reader.finish();
  // Not those whose order is any, nor errors, whose text is taken apart and put together again.
  if constexpr (!std::is_same_v<T, std::unordered_map<std::string, float>> &&
                !std::is_same_v<T, Result<Tree>> && !std::is_same_v<T, Result<void>>) {
    require(encode(again) == first, "what was written reads back as it was");
  }
}

void run(Input input) {
  const std::uint8_t type = input.byte();
  const std::size_t misalignment = input.byte() % 64;
  const auto taken = input.take(input.number<std::uint16_t>());
  const std::vector<std::byte> head(taken.begin(), taken.end());
  Blobs blobs(input.take(SIZE_MAX), misalignment);
  const auto reader = [&] { return Reader(head, blobs.bytes(), &blobs); };

  with_type(AllTypes{}, type, [&]<class T>() {
    Reader typed = reader();
    try {
      const T value = detail::Codec<T>::decode(typed);
      Reader skipping = reader();
      skipping.skip();
      require(skipping.position() == typed.position(), "a value is skipped as it is read");
      check_round_trip(value);
    } catch (const InvalidArgument&) {
    }
    require(typed.position() <= head.size(), "reading ends with the input");
  });
  try {
    Reader all = reader();
    while (!all.at_end()) all.skip();
  } catch (const InvalidArgument&) {
  }
  try {
    Reader all = reader();
    read_everything(all);
  } catch (const InvalidArgument&) {
  }
}

}  // namespace
}  // namespace forge::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  forge::fuzz::run({data, size});
  return 0;
}
