#include "gpu/host_backend.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gpu/host_shared.h"

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

  /// Shared memory, which is not kept for later. False if the device has no room for it.
  bool take_shared(std::size_t bytes) {
    if (bytes > use_.total) return false;
    if (use_.used + use_.pooled + bytes > use_.total) trim();
    if (use_.used + bytes > use_.total) return false;
    use_.used += bytes;
    return true;
  }
  void give_back_shared(std::size_t bytes) noexcept { use_.used -= bytes; }

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

/// What all objects of one backend share.
class Device {
 public:
  Device(DeviceInfo info, HostFaults faults)
      : info_(std::move(info)), faults_(std::move(faults)), pool_(info_.memory) {}

  const DeviceInfo& info() const { return info_; }
  Pool& pool() { return pool_; }
  bool healthy() const { return !lost_; }

  /// Null if there is no room.
  std::byte* take(std::size_t bytes) { return faults_.no_memory ? nullptr : pool_.take(bytes); }
  bool take_shared(std::size_t bytes) { return !faults_.no_memory && pool_.take_shared(bytes); }

  Status short_of(std::size_t bytes) const {
    const MemoryUse use = pool_.use();
    return {ErrorCode::unavailable, "device memory: a buffer of " + std::to_string(bytes) +
                                        " bytes does not fit; the device has " +
                                        std::to_string(use.total) + ", of which " +
                                        std::to_string(use.used) + " are in buffers"};
  }

  /// An error if the device is lost.
  Status check() const {
    if (!lost_) return {};
    return {ErrorCode::unavailable,
            info_.name + " (" + info_.uuid +
                "): an illegal address was encountered (700, injected); no work of this process "
                "can be done there any more, so the process must end"};
  }
  Status copy(std::byte* to, const std::byte* from, std::size_t bytes) {
    if (faults_.sticky_after != 0 && ++copies_ >= faults_.sticky_after) lost_ = true;
    if (Status status = check(); !status.ok()) return status;
    std::memcpy(to, from, bytes);
    return {};
  }

 private:
  const DeviceInfo info_;
  const HostFaults faults_;
  Pool pool_;
  std::uint64_t copies_ = 0;
  bool lost_ = false;
};

class HostBuffer final : public Buffer {
 public:
  HostBuffer(std::shared_ptr<Device> device, std::byte* data, std::size_t size)
      : Buffer(data, size), device_(std::move(device)) {}
  ~HostBuffer() override { device_->pool().give_back(device_data(), size()); }

 private:
  std::shared_ptr<Device> device_;
};

/// Shared memory as the device counts it.
class HostSharedView final : public Buffer {
 public:
  HostSharedView(std::shared_ptr<Device> device, std::unique_ptr<HostSharedBuffer> memory, bool own)
      : Buffer(memory->device_data(), memory->size()),
        device_(std::move(device)),
        memory_(std::move(memory)),
        own_(own) {}
  ~HostSharedView() override {
    if (own_) device_->pool().give_back_shared(size());
  }

  bool own() const { return own_; }
  const HostSharedBuffer& memory() const { return *memory_; }

 private:
  std::shared_ptr<Device> device_;
  std::unique_ptr<HostSharedBuffer> memory_;
  bool own_;  // not imported
};

/// Work is done when it is put in, so an event has nothing to remember.
class HostEvent final : public Event {
 public:
  explicit HostEvent(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  Result<bool> done() override {
    Status status = device_->check();
    if (!status.ok()) return make_error(status);
    return true;
  }
  Status synchronize() override { return device_->check(); }
  void* native() const override { return nullptr; }

 private:
  std::shared_ptr<Device> device_;
};

class HostPinnedRegion final : public PinnedRegion {
 public:
  explicit HostPinnedRegion(PinTable::Claim claim) : PinnedRegion(std::move(claim)) {}
};

struct Copy {
  std::byte* to;
  const std::byte* from;
  std::size_t bytes;
};

class HostGraph final : public Graph {
 public:
  explicit HostGraph(std::vector<Copy> copies) : copies_(std::move(copies)) {}
  const std::vector<Copy>& copies() const { return copies_; }
  void* native() const override { return nullptr; }

 private:
  std::vector<Copy> copies_;
};

class HostStream final : public Stream {
 public:
  explicit HostStream(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  void* native() const override { return nullptr; }

 private:
  Result<std::unique_ptr<Buffer>> do_allocate(std::size_t bytes) override {
    if (Status status = device_->check(); !status.ok()) return make_error(status);
    std::byte* data = device_->take(bytes);
    if (data == nullptr) return make_error(device_->short_of(bytes));
    return std::make_unique<HostBuffer>(device_, data, bytes);
  }
  Status do_copy_in(std::byte* to, HostPiece from) override {
    return do_copy_between(to, from.data(), from.size());
  }
  Status do_copy_out(std::span<std::byte> to, const std::byte* from) override {
    return do_copy_between(to.data(), from, to.size());
  }
  Status do_copy_between(std::byte* to, const std::byte* from, std::size_t bytes) override {
    if (!capturing()) return device_->copy(to, from, bytes);
    captured_.push_back({to, from, bytes});
    return {};
  }
  Status do_begin_capture() override {
    captured_.clear();
    return device_->check();
  }
  Result<std::unique_ptr<Graph>> do_end_capture() override {
    return std::make_unique<HostGraph>(std::exchange(captured_, {}));
  }
  Status do_launch(Graph& graph) override {
    const auto* const ours = dynamic_cast<HostGraph*>(&graph);
    if (ours == nullptr) {
      return {ErrorCode::invalid_argument, "launching a graph: it is of another backend"};
    }
    for (const Copy& copy : ours->copies()) {
      if (Status status = device_->copy(copy.to, copy.from, copy.bytes); !status.ok()) {
        return status;
      }
    }
    return device_->check();
  }
  Status do_record(Event&) override { return device_->check(); }
  Status do_wait(const Event&) override { return device_->check(); }
  Status do_synchronize() override { return device_->check(); }

  std::shared_ptr<Device> device_;
  std::vector<Copy> captured_;
};

/// Those that this process is to have.
HostFaults faults_of(const HostDeviceSpec& spec) {
  const HostFaults& faults = spec.faults;
  if (!faults.device.empty() && faults.device != spec.uuid) return {};
  if (faults.once.empty()) return faults;
  const shm::FileDescriptor first(
      ::open(faults.once.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600));
  return first ? faults : HostFaults{};
}

class HostBackend final : public Backend {
 public:
  explicit HostBackend(DeviceInfo info, HostFaults faults = {})
      : device_(std::make_shared<Device>(std::move(info), std::move(faults))) {}

  const DeviceInfo& device() const override { return device_->info(); }
  MemoryUse memory() const override { return device_->pool().use(); }
  bool healthy() const override { return device_->healthy(); }

  Result<std::unique_ptr<Stream>> make_stream() override {
    if (Status status = device_->check(); !status.ok()) return make_error(status);
    return std::make_unique<HostStream>(device_);
  }
  Result<std::unique_ptr<Event>> make_event() override {
    if (Status status = device_->check(); !status.ok()) return make_error(status);
    return std::make_unique<HostEvent>(device_);
  }

  Result<std::unique_ptr<Buffer>> allocate_shared(std::size_t bytes) override {
    if (Status status = device_->check(); !status.ok()) return make_error(status);
    if (!device_->take_shared(bytes)) return make_error(device_->short_of(bytes));
    auto memory = HostSharedBuffer::create(bytes);
    if (!memory) {
      device_->pool().give_back_shared(bytes);
      return memory.error_ptr();
    }
    return std::make_unique<HostSharedView>(device_, std::move(*memory), true);
  }
  Result<IpcHandle> export_buffer(const Buffer& buffer) override {
    const auto* const view = dynamic_cast<const HostSharedView*>(&buffer);
    if (view != nullptr && view->own()) return view->memory().handle();
    return make_error({ErrorCode::invalid_argument,
                       "exporting device memory: only what allocate_shared() of this process gave "
                       "can be opened by others"});
  }
  Result<std::unique_ptr<Buffer>> import_buffer(const IpcHandle& handle) override {
    auto memory = HostSharedBuffer::open(handle);
    if (!memory) return memory.error_ptr();
    return std::make_unique<HostSharedView>(device_, std::move(*memory), false);
  }

 private:
  Result<std::unique_ptr<PinnedRegion>> do_pin(PinTable::Claim claim,
                                               const PinOptions& options) override {
    if (Status status = device_->check(); !status.ok()) return make_error(status);
    if (options.read_only && !device().pins_read_only) {
      return make_error({ErrorCode::not_supported,
                         "pinning: the device does not take memory that is mapped read-only; map "
                         "it writable until it has been pinned"});
    }
    return std::make_unique<HostPinnedRegion>(std::move(claim));
  }

  std::shared_ptr<Device> device_;
};

}  // namespace

std::unique_ptr<Backend> make_host_backend(std::size_t memory) {
  return std::make_unique<HostBackend>(
      DeviceInfo{.ordinal = -1, .name = "host", .memory = memory, .pins_read_only = true});
}

Result<std::unique_ptr<Backend>> make_host_device(const HostDeviceSpec& spec) {
  const HostFaults faults = faults_of(spec);
  const std::string name = "device " + spec.uuid;
  if (faults.busy) {
    return make_error({ErrorCode::unavailable,
                       name + " is busy (injected): another process has it to itself; end that "
                              "process or set its compute mode to DEFAULT"});
  }
  if (faults.start_fails) {
    return make_error({ErrorCode::unavailable, name + " cannot be started (injected)"});
  }
  return std::make_unique<HostBackend>(DeviceInfo{.ordinal = spec.ordinal,
                                                  .name = "host posing as a device",
                                                  .uuid = spec.uuid,
                                                  .major = 9,
                                                  .minor = 0,
                                                  .memory = spec.memory,
                                                  .pins_read_only = spec.pins_read_only},
                                       faults);
}

}  // namespace forge::gpu
