// AnyBackend: the fixture of what every backend must do. Work may be asynchronous, so nothing is looked
// at before its stream or event says that it is done.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gpu/backend.h"

namespace forge::gpu {

using Bytes = std::vector<std::byte>;

inline Bytes some_bytes(std::size_t count, unsigned first = 1) {
  Bytes bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(first + i * 7);
  return bytes;
}

inline void expect_invalid(const Status& status) {
  EXPECT_EQ(status.code, ErrorCode::invalid_argument) << status.message;
}

/// Whole pages, because devices pin pages, and none twice.
class Pages {
 public:
  explicit Pages(std::size_t count, unsigned first = 1)
      : bytes_(static_cast<std::byte*>(::mmap(nullptr, count * kPage, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
               count * kPage) {
    fill(first);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { ::munmap(bytes_.data(), bytes_.size()); }

  static constexpr std::size_t kPage = 4096;
  std::span<std::byte> bytes() const { return bytes_; }
  Bytes copy() const { return {bytes_.begin(), bytes_.end()}; }
  void fill(unsigned first) const {
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      bytes_[i] = static_cast<std::byte>(first + i * 7 + i / kPage);
    }
  }

 private:
  std::span<std::byte> bytes_;
};

struct Kind {
  std::string name;
  std::unique_ptr<Backend> (*make)();
};
inline void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

class AnyBackend : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<Buffer> allocate(std::size_t bytes) {
    return std::move(stream_->allocate(bytes)).value();
  }
  /// All bytes of a buffer, once its stream is done.
  Bytes content(const Buffer& buffer) {
    Bytes bytes(buffer.size());
    EXPECT_TRUE(stream_->copy_out(bytes, buffer, 0).ok());
    EXPECT_TRUE(stream_->synchronize().ok());
    return bytes;
  }
  /// A buffer of so many zeros.
  std::unique_ptr<Buffer> zeros(std::size_t bytes) {
    auto buffer = allocate(bytes);
    const Bytes nothing(bytes);
    EXPECT_TRUE(stream_->copy_in(*buffer, 0, nothing).ok());
    EXPECT_TRUE(stream_->synchronize().ok());
    return buffer;
  }

  [[nodiscard]] std::unique_ptr<PinnedRegion> pin(const Pages& pages) {
    return std::move(backend_->pin(pages.bytes())).value();
  }

  std::unique_ptr<Backend> backend_ = GetParam().make();
  std::unique_ptr<Stream> stream_ = std::move(backend_->make_stream()).value();
};

}  // namespace forge::gpu
