// What wire and payload tests share: a written message on the heap, and memory for its tensors.
#pragma once

#include <forge/error.h>
#include <forge/wire.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <span>
#include <vector>

namespace forge::tests {

inline std::uint64_t test_seed() {
  const char* given = std::getenv("FORGE_TEST_SEED");
  const std::uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "FORGE_TEST_SEED=" << seed << std::endl;
  return seed;
}

/// Bytes on the heap; with a home, they are the memory both sides map.
struct MemoryStorage final : detail::TensorStorage {
  explicit MemoryStorage(std::size_t bytes) : memory(bytes / 64 + 1) {
    data = reinterpret_cast<std::byte*>(memory.data());
    size = bytes;
  }
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> memory;
};

/// One written message, in buffers of exactly its size so that a sanitizer sees every overrun.
class Message {
 public:
  explicit Message(const detail::Writer& writer) : head_size_(writer.head().size()) {
    const std::size_t size = writer.block_size();
    MemoryStorage block(size);
    writer.write_to(block.data);
    head_.assign(block.data, block.data + head_size_);
    const auto blobs = detail::blobs_of({block.data, size}, head_size_);
    blobs_ = std::make_shared<MemoryStorage>(blobs.size());
    if (!blobs.empty()) std::memcpy(blobs_->data, blobs.data(), blobs.size());
  }

  const std::vector<std::byte>& head() const { return head_; }
  const std::shared_ptr<MemoryStorage>& blobs() const { return blobs_; }
  /// A reader of `head`, which may be a damaged copy.
  detail::Reader reader(std::span<const std::byte> head, detail::TensorSource* source) const {
    return detail::Reader(head, {blobs_->data, blobs_->size}, source);
  }
  detail::Reader reader(detail::TensorSource* source = nullptr) const {
    return reader(head_, source);
  }

 private:
  std::size_t head_size_;
  std::vector<std::byte> head_;
  std::shared_ptr<MemoryStorage> blobs_;
};

/// Views of a message's blobs and of one home.
struct MemorySource final : detail::TensorSource {
  MemorySource(std::shared_ptr<MemoryStorage> blobs, std::shared_ptr<MemoryStorage> home = nullptr)
      : blobs_(std::move(blobs)), home_(std::move(home)) {}

  Tensor in_block(std::uint64_t offset, std::uint64_t, DType dtype,
                  std::span<const std::int64_t> shape) override {
    return Tensor::adopt(blobs_, dtype, shape, offset);
  }
  Tensor in_home(std::uint64_t offset, std::uint64_t, DType dtype,
                 std::span<const std::int64_t> shape) override {
    if (!home_ || offset < home_->home_offset) throw InvalidArgument("not in home");
    return Tensor::adopt(home_, dtype, shape, offset - home_->home_offset);
  }

 private:
  std::shared_ptr<MemoryStorage> blobs_;
  std::shared_ptr<MemoryStorage> home_;
};

}  // namespace forge::tests
