#include "replicas/device_lane.h"

#include <forge/error.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace forge::replicas {
namespace {

/// What tensors that share a buffer begin at a multiple of. The first one begins where the backend
/// lets buffers begin, which is further apart.
constexpr std::size_t kAlignment = 64;

constexpr std::size_t aligned(std::size_t size) {
  return (size + kAlignment - 1) & ~(kAlignment - 1);
}

struct LaneGraph final : detail::DeviceWork::Graph {
  explicit LaneGraph(std::unique_ptr<gpu::Graph> work) : graph(std::move(work)) {}
  std::unique_ptr<gpu::Graph> graph;
};

}  // namespace

/// What arguments of one call share. Dropped by the last of them, on any thread.
class DeviceLane::Memory {
 public:
  Memory(DeviceLane& lane, std::unique_ptr<gpu::Buffer> buffer)
      : lane_(lane), buffer_(std::move(buffer)) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { lane_.retire(std::move(buffer_)); }

 private:
  DeviceLane& lane_;
  std::unique_ptr<gpu::Buffer> buffer_;
};

/// Memory from compute.
class DeviceLane::Storage final : public detail::TensorStorage {
 public:
  Storage(DeviceLane& lane, std::unique_ptr<gpu::Buffer> buffer)
      : lane_(lane), buffer_(std::move(buffer)) {
    data = buffer_->device_data();
    size = buffer_->size();
    device = lane.ordinal();
  }
  ~Storage() override {
    if (sent_ || std::this_thread::get_id() != lane_.thread_) lane_.retire(std::move(buffer_));
  }
  std::shared_ptr<TensorStorage> joined(std::span<const gpu::HostPiece> pieces) override {
    return lane_.join_pieces(pieces);
  }
  gpu::Buffer& buffer() { return *buffer_; }
  void sent() { sent_ = true; }

 private:
  DeviceLane& lane_;
  std::unique_ptr<gpu::Buffer> buffer_;
  bool sent_ = false;  // out reads it, whose order is not compute's
};

// ---- start and end

Result<std::unique_ptr<DeviceLane>> DeviceLane::create(gpu::Backend& backend,
                                                       std::function<void(const Status&)> lost) {
  std::unique_ptr<DeviceLane> lane(new DeviceLane(backend, std::move(lost)));
  if (const Status status = lane->open(); !status.ok()) return make_error(status);
  return lane;
}

Status DeviceLane::open() {
  for (auto* stream : {&in_, &compute_, &out_}) {
    auto made = backend_.make_stream();
    if (!made) return to_status(made.error());
    *stream = std::move(*made);
  }
  for (auto* event : {&arrived_, &computed_}) {
    auto made = backend_.make_event();
    if (!made) return to_status(made.error());
    *event = std::move(*made);
  }
  return {};
}

DeviceLane::~DeviceLane() {
  if (in_ == nullptr || compute_ == nullptr || out_ == nullptr) return;
  for (auto* stream : {&in_, &compute_, &out_}) (void)(*stream)->synchronize();
}

void DeviceLane::check(const Status& status) const {
  if (!status.ok() && !backend_.healthy()) lost_(status);
}

void DeviceLane::suspect(const Status& why) const {
  check(compute_->record(*computed_));
  check(why);
}

void DeviceLane::require(const Status& status) const {
  if (status.ok()) return;
  check(status);
  make_error(status)->raise();
}

void DeviceLane::pin(gpu::HostPiece memory, const gpu::PinOptions& options) noexcept {
  try {
    auto region = backend_.pin(memory, options);
    if (region) return pins_.push_back(std::move(*region));
    check(to_status(region.error()));
    if (std::exchange(said_unpinned_, true)) return;
    std::fprintf(stderr, "forge-worker: %zu bytes stay unpinned and are copied more slowly: %s\n",
                 memory.size(), region.error().what());
  } catch (...) {  // no memory for a message
  }
}

// ---- memory

/// Where there is no room, what is still in use by calls that are nearly over may make some.
std::unique_ptr<gpu::Buffer> DeviceLane::allocate(gpu::Stream& stream, std::size_t bytes) {
  auto buffer = stream.allocate(bytes);
  if (!buffer && buffer.error().error_code() == ErrorCode::unavailable && backend_.healthy()) {
    drain();
    buffer = stream.allocate(bytes);
  }
  if (!buffer) require(to_status(buffer.error()));
  return std::move(*buffer);
}

/// Waits for everything, so that nothing needs what has been retired.
void DeviceLane::drain() {
  const Buffers retired = take_retired();
  for (auto* stream : {&in_, &compute_, &out_}) require((*stream)->synchronize());
  buried_.clear();
}

void DeviceLane::retire(std::unique_ptr<gpu::Buffer> buffer) noexcept {
  const std::lock_guard lock(mutex_);
  retired_.push_back(std::move(buffer));
}

DeviceLane::Buffers DeviceLane::take_retired() noexcept {
  const std::lock_guard lock(mutex_);
  return std::exchange(retired_, {});
}

std::shared_ptr<DeviceLane::Storage> DeviceLane::make_storage(std::size_t bytes) {
  return std::make_shared<Storage>(*this, allocate(*compute_, bytes));
}

Tensor DeviceLane::allocate(DType dtype, std::span<const std::int64_t> shape) {
  return Tensor::adopt(make_storage(detail::byte_size(dtype, shape)), dtype, shape);
}

// ---- arguments

void DeviceLane::bring(std::span<Arrival* const> arrivals) {
  if (arrivals.empty()) return;
  std::size_t total = 0;
  for (const Arrival* arrival : arrivals) total = aligned(total) + arrival->size;
  auto buffer = allocate(*in_, total);
  std::byte* at = buffer->device_data();
  if (Status status = copy_arrivals(arrivals, *buffer); !status.ok()) {
    check(status);
    check(in_->synchronize());  // some may have been put in, and read what is not ours for long
    require(status);
  }
  const auto memory = std::make_shared<Memory>(*this, std::move(buffer));
  for (Arrival* arrival : arrivals) {
    const std::size_t size = arrival->size;
    arrival->move_to(at, *this, memory);
    at += aligned(size);
  }
}

/// As few gathers as alignment allows: one, if all sizes are multiples of it.
Status DeviceLane::copy_arrivals(std::span<Arrival* const> arrivals, gpu::Buffer& to) {
  std::size_t begin = 0;
  std::size_t end = 0;
  run_.clear();
  for (const Arrival* arrival : arrivals) {
    if (end != aligned(end)) {
      if (Status status = in_->gather(to, begin, run_); !status.ok()) return status;
      run_.clear();
      begin = end = aligned(end);
    }
    const auto pieces = arrival->pieces();
    run_.insert(run_.end(), pieces.begin(), pieces.end());
    end += arrival->size;
  }
  if (Status status = in_->gather(to, begin, run_); !status.ok()) return status;
  if (Status status = in_->record(*arrived_); !status.ok()) return status;
  return compute_->wait(*arrived_);
}

Tensor DeviceLane::copy_of(const Tensor& host) {
  const auto storage = make_storage(host.byte_count());
  require(compute_->copy_in(storage->buffer(), 0, host.bytes()));
  return Tensor::adopt(storage, host.dtype(), host.shape());
}

void DeviceLane::copy_back(const Tensor& from, std::span<std::byte> to) {
  const gpu::BorrowedBuffer buffer(from.storage()->data + from.byte_offset(), from.byte_count());
  require(compute_->copy_out(to, buffer, 0));
  require(compute_->synchronize());
}

std::shared_ptr<detail::TensorStorage> DeviceLane::join_pieces(
    std::span<const gpu::HostPiece> pieces) {
  std::size_t total = 0;
  for (const gpu::HostPiece piece : pieces) total += piece.size();
  auto storage = make_storage(total);
  std::size_t at = 0;
  for (const gpu::HostPiece piece : pieces) {
    const gpu::BorrowedBuffer from(const_cast<std::byte*>(piece.data()), piece.size());
    require(compute_->copy_between(storage->buffer(), at, from, 0, piece.size()));
    at += piece.size();
  }
  return storage;
}

// ---- results

void DeviceLane::join() {
  require(compute_->record(*computed_));
  require(out_->wait(*computed_));
}

void DeviceLane::send(const Tensor& from, std::span<std::byte> to) {
  if (auto* storage = dynamic_cast<Storage*>(from.storage().get())) storage->sent();
  const gpu::BorrowedBuffer buffer(from.storage()->data + from.byte_offset(), from.byte_count());
  require(out_->copy_out(to, buffer, 0));
}

bool DeviceLane::keeps(const Tensor& tensor) const {
  const detail::TensorStorage* const storage = tensor.storage().get();
  return dynamic_cast<const Storage*>(storage) != nullptr ||
         dynamic_cast<const Arrival*>(storage) != nullptr;
}

std::unique_ptr<gpu::Event> DeviceLane::take_event() {
  if (!events_.empty()) {
    auto event = std::move(events_.back());
    events_.pop_back();
    return event;
  }
  auto event = backend_.make_event();
  if (!event) require(to_status(event.error()));
  return std::move(*event);
}

DeviceLane::Mark DeviceLane::mark(bool joined) noexcept {
  Mark mark;
  mark.number = ++marks_;
  try {
    if (Buffers buffers = take_retired(); !buffers.empty())
      buried_.emplace_back(mark.number, std::move(buffers));
    if (!joined) join();
    mark.event = take_event();
    require(out_->record(*mark.event));
  } catch (const Error& error) {  // without an event there is only waiting
    mark.event.reset();
    mark.failure = to_status(error);
    check(out_->synchronize());
  } catch (...) {
    mark.event.reset();
    mark.failure = {ErrorCode::unavailable, {}, {}};
    check(out_->synchronize());
  }
  return mark;
}

Status DeviceLane::query(gpu::Event& event, bool& done) noexcept {
  const auto answer = event.done();
  done = !answer || *answer;
  if (answer) return {};
  Status status = to_status(answer.error());
  check(status);
  return status;
}

bool DeviceLane::passed(Mark& mark) noexcept {
  if (mark.event == nullptr) return true;
  bool done = false;
  if (Status status = query(*mark.event, done); !status.ok()) mark.failure = std::move(status);
  return done;
}

void DeviceLane::wait(Mark& mark) noexcept {
  if (mark.event == nullptr) return;
  if (Status status = mark.event->synchronize(); !status.ok()) {
    check(status);
    mark.failure = std::move(status);
  }
}

void DeviceLane::close(Mark mark) noexcept {
  while (!buried_.empty() && buried_.front().first <= mark.number) buried_.pop_front();
  if (mark.event != nullptr) events_.push_back(std::move(mark.event));
}

// ---- DeviceWork

bool DeviceLane::idle() {
  if (!waiting_.empty()) return false;  // behind those who came before
  require(compute_->record(*computed_));
  const auto done = computed_->done();
  if (!done) require(to_status(done.error()));
  return *done;
}

void DeviceLane::when_idle(std::coroutine_handle<> coroutine, detail::ErrorPtr& failure) {
  auto event = take_event();
  require(compute_->record(*event));
  waiting_.push_back({std::move(event), coroutine, &failure});
}

bool DeviceLane::resume_waiting() {
  bool any = false;
  while (!waiting_.empty()) {
    bool done = false;
    const Status status = query(*waiting_.front().event, done);
    if (!done) break;
    Waiting first = std::move(waiting_.front());
    waiting_.pop_front();
    if (!status.ok()) *first.failure = make_error(status);
    events_.push_back(std::move(first.event));
    first.coroutine.resume();
    any = true;
  }
  return any;
}

std::unique_ptr<detail::DeviceWork::Graph> DeviceLane::capture(const std::function<void()>& body) {
  require(compute_->begin_capture());
  try {
    body();
  } catch (...) {
    (void)compute_->end_capture();
    throw;
  }
  auto graph = compute_->end_capture();
  if (!graph) require(to_status(graph.error()));
  return std::make_unique<LaneGraph>(std::move(*graph));
}

void DeviceLane::launch(Graph& graph) {
  require(compute_->launch(*static_cast<LaneGraph&>(graph).graph));
}

void DeviceLane::synchronize() { require(compute_->synchronize()); }

}  // namespace forge::replicas
