#include "gpu/host_backend.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <new>
#include <span>
#include <string>
#include <utility>

namespace forge::gpu {
namespace {

/// What cudaMalloc promises.
constexpr std::size_t kAlignment = 256;

/// Blocks of 2^n bytes. Freed ones are kept for the next buffer of that size, in lists whose links
/// lie in the blocks themselves.
class Pool {
 public:
  explicit Pool(std::size_t total) { use_.total = total; }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { trim(); }

  MemoryUse use() const { return use_; }

  /// Null if the device has no room for it.
  std::byte* take(std::size_t bytes) {
    if (bytes > use_.total) return nullptr;  // so rounding up cannot overflow
    const std::size_t size = rounded(bytes);
    std::byte* block = pop(size);
    if (block == nullptr) {
      if (use_.used + use_.pooled + size > use_.total) trim();
      if (use_.used + size > use_.total) return nullptr;
      block = static_cast<std::byte*>(
          ::operator new (size, std::align_val_t{kAlignment}, std::nothrow));
      if (block == nullptr) return nullptr;
    }
    use_.used += size;
    return block;
  }

  void give_back(std::byte* block, std::size_t bytes) noexcept {
    const std::size_t size = rounded(bytes);
    std::byte*& first = first_of(size);
    std::memcpy(block, &first, sizeof(first));
    first = block;
    use_.used -= size;
    use_.pooled += size;
  }

 private:
  static std::size_t rounded(std::size_t bytes) {
    return std::bit_ceil(std::max(bytes, kAlignment));
  }
  std::byte*& first_of(std::size_t size) {
    return kept_[static_cast<std::size_t>(std::countr_zero(size))];
  }
  std::byte* pop(std::size_t size) {
    std::byte*& first = first_of(size);
    std::byte* block = first;
    if (block == nullptr) return nullptr;
    std::memcpy(&first, block, sizeof(first));
    use_.pooled -= size;
    return block;
  }
  void trim() {
    for (std::size_t size = kAlignment; use_.pooled > 0; size *= 2) {
      while (std::byte* block = pop(size)) {
        ::operator delete (block, std::align_val_t{kAlignment});
      }
    }
  }

  MemoryUse use_;
  std::array<std::byte*, 64> kept_{};  // by the logarithm of the size
};

class HostBuffer final : public Buffer {
 public:
  HostBuffer(std::shared_ptr<Pool> pool, std::byte* data, std::size_t size)
      : Buffer(data, size), pool_(std::move(pool)) {}
  ~HostBuffer() override { pool_->give_back(device_data(), size()); }

 private:
  std::shared_ptr<Pool> pool_;
};

/// Work is done when it is put in, so an event has nothing to remember.
class HostEvent final : public Event {
 public:
  Result<bool> done() override { return true; }
  Status synchronize() override { return {}; }
  void* native() const override { return nullptr; }
};

class HostStream final : public Stream {
 public:
  explicit HostStream(std::shared_ptr<Pool> pool) : pool_(std::move(pool)) {}

  Result<std::unique_ptr<Buffer>> allocate(std::size_t bytes) override {
    std::byte* data = pool_->take(bytes);
    if (data == nullptr) {
      const MemoryUse use = pool_->use();
      return make_error({ErrorCode::unavailable,
                         "device memory: a buffer of " + std::to_string(bytes) +
                             " bytes does not fit; the device has " + std::to_string(use.total) +
                             ", of which " + std::to_string(use.used) + " are in buffers"});
    }
    return std::make_unique<HostBuffer>(pool_, data, bytes);
  }

  Status record(Event&) override { return {}; }
  Status wait(const Event&) override { return {}; }
  Status synchronize() override { return {}; }
  void* native() const override { return nullptr; }

 private:
  Status do_copy_in(std::byte* to, HostPiece from) override {
    std::memcpy(to, from.data(), from.size());
    return {};
  }
  Status do_copy_out(std::span<std::byte> to, const std::byte* from) override {
    std::memcpy(to.data(), from, to.size());
    return {};
  }

  std::shared_ptr<Pool> pool_;
};

/// Pinned regions by where they begin. They do not overlap.
using Pins = std::map<std::uintptr_t, std::size_t>;

std::uintptr_t address_of(HostPiece memory) {
  return reinterpret_cast<std::uintptr_t>(memory.data());
}

class HostPinnedRegion final : public PinnedRegion {
 public:
  HostPinnedRegion(std::shared_ptr<Pins> pins, HostPiece memory)
      : PinnedRegion(memory), pins_(std::move(pins)) {
    pins_->emplace(address_of(memory), memory.size());
  }
  ~HostPinnedRegion() override { pins_->erase(address_of(memory())); }

 private:
  std::shared_ptr<Pins> pins_;
};

class HostBackend final : public Backend {
 public:
  explicit HostBackend(std::size_t memory) : pool_(std::make_shared<Pool>(memory)) {}

  const DeviceInfo& device() const override { return device_; }
  MemoryUse memory() const override { return pool_->use(); }
  bool healthy() const override { return true; }

  Result<std::unique_ptr<Stream>> make_stream() override {
    return std::make_unique<HostStream>(pool_);
  }
  Result<std::unique_ptr<Event>> make_event() override { return std::make_unique<HostEvent>(); }

  Result<std::unique_ptr<PinnedRegion>> pin(HostPiece memory) override {
    if (memory.empty()) {
      return make_error({ErrorCode::invalid_argument, "pinning: there is no memory to pin"});
    }
    // Of those that begin before our end, the last one ends last.
    const auto after = pins_->lower_bound(address_of(memory) + memory.size());
    if (after != pins_->begin()) {
      const auto& [begin, size] = *std::prev(after);
      if (begin + size > address_of(memory)) {
        return make_error({ErrorCode::invalid_argument,
                           "pinning: some of these " + std::to_string(memory.size()) +
                               " bytes are pinned already; drop that region first"});
      }
    }
    return std::make_unique<HostPinnedRegion>(pins_, memory);
  }

 private:
  DeviceInfo device_{.ordinal = -1, .name = "host", .pins_read_only = true};
  std::shared_ptr<Pool> pool_;
  std::shared_ptr<Pins> pins_ = std::make_shared<Pins>();
};

}  // namespace

std::unique_ptr<Backend> make_host_backend(std::size_t memory) {
  return std::make_unique<HostBackend>(memory);
}

}  // namespace forge::gpu
