#include "replicas/worker.h"

#include <forge/actor.h>
#include <forge/payload.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "replicas/actor_host.h"
#include "replicas/answer_pool.h"
#include "replicas/manifest.h"
#include "replicas/plugin_loader.h"
#include "replicas/process.h"
#include "shm/control_file.h"
#include "shm/doorbell.h"
#include "shm/prefetch.h"
#include "shm/wait_strategy.h"

namespace forge::replicas {
namespace {

/// A request tensor: bytes in the arena, which are ours to read until we answer.
struct RequestStorage final : detail::TensorStorage {
  RequestStorage(const std::byte* bytes, std::size_t count) {
    data = const_cast<std::byte*>(bytes);  // frozen, and the mapping is read-only anyway
    size = count;
    frozen.store(true, std::memory_order_relaxed);
  }
  /// The actor kept the tensor: give it bytes of its own before the arena's are used again.
  void detach() {
    own = std::make_unique<std::byte[]>(size);
    std::memcpy(own.get(), data, size);
    data = own.get();
  }
  std::unique_ptr<std::byte[]> own;
};

class RequestSource final : public detail::TensorSource {
 public:
  explicit RequestSource(const shm::Segment& arena) : arena_(arena) {}

  void begin(std::span<const std::byte> blobs) { blobs_ = blobs; }
  void end() {
    for (auto& storage : given_) {
      if (storage.use_count() > 1) storage->detach();
    }
    given_.clear();
  }

  Tensor in_block(std::uint64_t offset, std::uint64_t size, DType dtype,
                  std::span<const std::int64_t> shape) override {
    return view(blobs_, offset, size, dtype, shape);
  }
  Tensor in_home(std::uint64_t offset, std::uint64_t size, DType dtype,
                 std::span<const std::int64_t> shape) override {
    return view({arena_.data(), arena_.size()}, offset, size, dtype, shape);
  }

 private:
  Tensor view(std::span<const std::byte> memory, std::uint64_t offset, std::uint64_t size,
              DType dtype, std::span<const std::int64_t> shape) {
    if (offset > memory.size() || size > memory.size() - offset)
      throw InvalidArgument("a request refers to bytes outside of its memory");
    given_.push_back(std::make_shared<RequestStorage>(memory.data() + offset, size));
    return Tensor::adopt(given_.back(), dtype, shape);
  }

  const shm::Segment& arena_;
  std::span<const std::byte> blobs_;
  std::vector<std::shared_ptr<RequestStorage>> given_;
};

class Worker final : public Context, public detail::ResultSink {
 public:
  Worker(shm::Segment requests, shm::Segment responses, shm::Segment arena);
  int run();

  int rank() const override { return static_cast<int>(in_->identity.rank); }
  int procs() const override { return static_cast<int>(in_->identity.procs); }
  int replica() const override { return static_cast<int>(in_->identity.replica); }
  std::uint64_t incarnation() const override { return in_->header.incarnation; }
  const std::string& sess_id() const override { return sess_id_; }
  int device() const override { return -1; }
  std::size_t batch_size() const override { return batch_size_; }
  bool cancelled() const override {
    return (current_ != nullptr && shm::is_cancelled(*current_)) ||
           (deadline_ns_ != 0 && now_ns() > deadline_ns_);
  }

 private:
  Tensor allocate_response(DType dtype, std::span<const std::int64_t> shape) override {
    return answers_.allocate(dtype, shape);
  }
  void value(detail::Writer& out) override {
    if (in_batch_) return give([&] { answers_.write(out, *slot_); });
    answers_.write(out, *slot_);
  }
  void error(const Error& error) override {
    give([&] { error.raise(); });
  }
  template <class Write>
  void give(Write write);

  static std::int64_t now_ns() {
    return std::chrono::steady_clock::now().time_since_epoch().count();
  }

  bool step();
  bool handle(const shm::RequestSlot& request, std::uint64_t position);
  void execute(const shm::RequestSlot& request);
  void run_batch(std::uint32_t count);
  shm::ResponseSlot& claim(const shm::RequestSlot& request);
  bool is_late(const shm::RequestSlot& request) const;
  bool in_arena(const shm::RequestSlot& request) const;
  detail::Reader reader(const shm::RequestSlot& request, RequestSource& source) const;
  void write_error(ErrorCode code);
  bool set_up(detail::Reader& reader);
  void write_status(const Status& status);
  void ring_controller();
  void park();

  shm::Segment request_file_;
  shm::Segment response_file_;
  shm::Segment arena_;
  const shm::RequestFile* in_;
  shm::ResponseFile* out_;
  shm::RingConsumer<shm::RequestSlot> requests_;
  shm::RingProducer<shm::ResponseSlot> responses_;
  AnswerPool answers_;
  std::optional<ActorHost> host_;  // after the memory its tensors lie in
  detail::Writer writer_;
  shm::ResponseSlot* slot_ = nullptr;          // being filled
  const shm::RequestSlot* current_ = nullptr;  // in the ring: the call that runs, if it is one
  bool in_batch_ = false;
  // Of the current batch:
  std::vector<shm::RequestSlot> live_;  // those that are executed
  std::size_t given_ = 0;               // of them, how many have been answered
  std::vector<shm::ResponseSlot*> answered_;
  std::vector<detail::Reader> readers_;  // as many
  std::deque<RequestSource> sources_;    // at least as many; only grows
  std::uint32_t rung_ = 0;               // the controller's parking we have rung for
  std::int64_t deadline_ns_ = 0;         // of the current call
  std::int64_t started_ns_ = 0;          // likewise, if it is timed
  std::size_t batch_size_ = 1;
  std::string sess_id_;
};

Worker::Worker(shm::Segment requests, shm::Segment responses, shm::Segment arena)
    : request_file_(std::move(requests)),
      response_file_(std::move(responses)),
      arena_(std::move(arena)),
      in_(reinterpret_cast<const shm::RequestFile*>(request_file_.data())),
      out_(reinterpret_cast<shm::ResponseFile*>(response_file_.data())),
      requests_(in_->requests, shm::kWindow, in_->requests_tail, out_->requests_head),
      responses_(out_->responses, shm::kWindow, out_->responses_tail, in_->responses_head),
      answers_(response_file_, in_->releases, in_->releases_tail, out_->releases_head),
      sources_() {
  sources_.emplace_back(arena_);
  out_->header = shm::make_header(response_file_.size(), in_->header.incarnation);
}

int Worker::run() {
  detail::set_context(this);
  shm::Spinner spinner(static_cast<Wait>(in_->identity.wait));
  for (;;) {
    if (requests_.ready()) {
      if (!step()) break;
      spinner.reset();
    } else if (!spinner.keep_spinning()) {
      answers_.collect();
      park();
      spinner.reset();
    }
    if (requests_.corrupt()) {
      out_->exit_reason.store(shm::ExitReason::bad_layout, std::memory_order_release);
      return 1;
    }
  }
  host_.reset();
  return out_->exit_reason.load(std::memory_order_relaxed) == shm::ExitReason::stopped ? 0 : 1;
}

/// One request, or one batch. False: this worker is done.
bool Worker::step() {
  const shm::RequestSlot request = *requests_.front();
  if (request.block <= arena_.size() - 2 * shm::kCacheLine)
    shm::prefetch_for_read(arena_.data() + request.block, 2 * shm::kCacheLine);
  const std::uint64_t position = requests_.position();
  if (request.kind == shm::RequestKind::stop) {
    out_->exit_reason.store(shm::ExitReason::stopped, std::memory_order_release);
    return false;
  }
  const std::uint32_t count = std::max<std::uint32_t>(request.batch, 1);
  bool go_on = true;
  if (count > 1) {
    run_batch(count);
  } else {
    slot_ = &claim(request);
    go_on = handle(request, position);
  }
  // Before we answer: the arena's bytes are ours no longer than that.
  for (std::uint32_t i = 0; i < count; ++i) sources_[i].end();
  responses_.commit();
  requests_.pop(count);
  ring_controller();
  shm::prefetch_for_write(responses_.next_slot(), sizeof(shm::ResponseSlot));
  return go_on;
}

/// The next response slot, staged, as the answer to this request.
shm::ResponseSlot& Worker::claim(const shm::RequestSlot& request) {
  shm::ResponseSlot* slot = responses_.try_claim();  // never full: calls are kept within the window
  if (slot == nullptr) std::abort();
  responses_.stage();
  slot->id = request.id;
  slot->attempt = request.attempt;
  slot->kind = shm::ResponseKind::value;
  slot->flags = 0;
  slot->block = 0;
  slot->head_size = 0;
  return *slot;
}

bool Worker::is_late(const shm::RequestSlot& request) const {
  // In lockstep the controller alone decides: ranks might see different times.
  if (procs() != 1) return false;
  return request.cancelled != 0 || (request.deadline_ns != 0 && now_ns() > request.deadline_ns);
}

bool Worker::in_arena(const shm::RequestSlot& request) const {
  return request.block <= arena_.size() && request.block_size <= arena_.size() - request.block &&
         request.head_size <= request.block_size;
}

/// Precondition: in_arena().
detail::Reader Worker::reader(const shm::RequestSlot& request, RequestSource& source) const {
  const std::span<const std::byte> block(arena_.data() + request.block, request.block_size);
  const auto blobs = detail::blobs_of(block, request.head_size);
  source.begin(blobs);
  return detail::Reader(block.first(request.head_size), blobs, &source);
}

bool Worker::handle(const shm::RequestSlot& request, std::uint64_t position) {
  if (is_late(request)) {
    slot_->kind = shm::ResponseKind::expired;
    return true;
  }
  // Release: whoever sees an effect of the call sees that it was started. Stored before the first
  // payload byte is read.
  out_->started.position.store(position + 1, std::memory_order_release);
  if (!in_arena(request)) {
    write_status({ErrorCode::invalid_argument,
                  "a request lies outside of the arena; use controller and worker of one build"});
    return true;
  }
  if (request.kind != shm::RequestKind::setup) {
    execute(request);
    return true;
  }
  detail::Reader arguments = reader(request, sources_.front());
  if (set_up(arguments)) return true;
  out_->exit_reason.store(shm::ExitReason::setup_failed, std::memory_order_release);
  return false;
}

void Worker::execute(const shm::RequestSlot& request) {
  detail::Reader arguments = reader(request, sources_.front());
  writer_.reset(answers_.home());
  deadline_ns_ = request.deadline_ns;
  batch_size_ = 1;
  sess_id_.clear();
  if (request.session != 0) sess_id_ = arguments.string();  // as the controller wrote it
  current_ = requests_.front();
  if ((request.flags & shm::kTimed) != 0) started_ns_ = now_ns();
  const ErrorCode code = host_ ? host_->invoke(request.endpoint, {&arguments, 1}, writer_, *this)
                               : ErrorCode::invalid_argument;
  current_ = nullptr;
  if (code != ErrorCode::ok) write_error(code);
  if ((request.flags & shm::kTimed) != 0) shm::write_stamp(*slot_, {started_ns_, now_ns()});
}

/// Puts the error that writer_ holds into slot_.
void Worker::write_error(ErrorCode code) {
  slot_->kind = shm::ResponseKind::error;
  try {
    answers_.write(writer_, *slot_);
  } catch (const Error& error) {  // no memory for the error: say at least that
    writer_.reset();
    detail::write_error(
        writer_,
        Backpressure(
            code == ErrorCode::backpressure
                ? "the worker's answer memory is full; drop answers or raise arena_bytes"
                : "the endpoint failed, and the worker's answer memory is too full to say how"));
    answers_.write(writer_, *slot_);
  }
}

/// One execution for the next `count` requests. Each has its own answer; all are published together.
void Worker::run_batch(std::uint32_t count) {
  if (count > shm::kWindow || requests_.peek(count - 1) == nullptr)
    std::abort();  // never: one commit
  live_.clear();
  readers_.clear();
  while (sources_.size() < count) sources_.emplace_back(arena_);
  std::int64_t last_deadline = 0;
  bool limited = true;
  for (std::uint32_t i = 0; i < count; ++i) {
    const shm::RequestSlot request = *requests_.peek(i);
    if (is_late(request) || !in_arena(request)) {  // a hole
      claim(request).kind = shm::ResponseKind::expired;
      continue;
    }
    limited = limited && request.deadline_ns != 0;
    last_deadline = std::max(last_deadline, request.deadline_ns);
    live_.push_back(request);
  }
  // As in handle(): before the first payload byte is read.
  out_->started.position.store(requests_.position() + count, std::memory_order_release);
  for (std::size_t i = 0; i < live_.size(); ++i) readers_.push_back(reader(live_[i], sources_[i]));
  writer_.reset(answers_.home());
  deadline_ns_ = limited ? last_deadline : 0;  // somebody waits until then
  batch_size_ = live_.size();
  sess_id_.clear();
  given_ = 0;
  answered_.clear();
  if (!live_.empty()) {
    in_batch_ = true;
    const bool timed = std::any_of(live_.begin(), live_.end(), [](const auto& request) {
      return (request.flags & shm::kTimed) != 0;
    });
    if (timed) started_ns_ = now_ns();
    const ErrorCode code = host_->invoke(live_.front().endpoint, readers_, writer_, *this);
    for (; given_ < live_.size(); ++given_) {  // the whole batch failed
      answered_.push_back(slot_ = &claim(live_[given_]));
      slot_->flags = shm::kBatchFailed;
      write_error(code);
    }
    in_batch_ = false;
    if (timed) {
      const std::int64_t ended_ns = now_ns();
      for (shm::ResponseSlot* slot : answered_) shm::write_stamp(*slot, {started_ns_, ended_ns});
    }
  }
}

/// The answer of the next element. What goes wrong with it is its own error.
template <class Write>
void Worker::give(Write write) {
  if (in_batch_) answered_.push_back(slot_ = &claim(live_[given_++]));
  try {
    write();
  } catch (const Error& error) {
    writer_.restart();
    detail::write_error(writer_, error);
    write_error(error.error_code());
  }
}

bool Worker::set_up(detail::Reader& reader) {
  Status status;
  try {
    if (reader.array() != 3) throw InvalidArgument("setup call of another build");
    const std::string plugin(reader.string());
    const std::string service(reader.string());
    const std::string actor(reader.string());
    LoadedPlugin loaded = load_plugin(plugin);
    status = loaded.status;
    writer_.reset();
    if (status.ok() && actor.empty()) {
      encode(describe(*loaded.module, plugin), writer_);
      answers_.write(writer_, *slot_);
      return true;
    }
    if (status.ok()) {
      host_.emplace(std::move(loaded.module));
      status = host_->create(actor, reader);
    }
    if (status.ok()) status = host_->setup();
    if (status.ok()) {
      writer_.nil();
      answers_.write(writer_, *slot_);
      return true;
    }
  } catch (const Error& error) {
    status = to_status(error);
  }
  write_status(status);
  return false;
}

void Worker::write_status(const Status& status) {
  slot_->kind = shm::ResponseKind::error;
  writer_.reset();
  detail::write_error(writer_, *make_error(status));
  answers_.write(writer_, *slot_);
}

void Worker::ring_controller() {
  shm::handshake_fence();
  const auto& header = *reinterpret_cast<const shm::ArenaHeader*>(arena_.data());
  const std::uint32_t word = header.poller.load(std::memory_order_relaxed);  // the fence orders it
  const auto poller = static_cast<shm::Poller>(word & ((1U << shm::kPollerBits) - 1));
  if (poller == shm::Poller::awake || word == rung_) return;
  rung_ = word;
  switch (poller) {
    case shm::Poller::caller:
      return shm::ring(out_->caller_bell.word, shm::Scope::shared);
    case shm::Poller::engine:
      return shm::ring(out_->engine_bell.word, shm::Scope::shared);
    default:
      (void)!::eventfd_write(kEventFd, 1);
  }
}

void Worker::park() {
  const shm::Word& bell = in_->worker_bell.word;
  const std::uint32_t seen = bell.load(std::memory_order_relaxed);
  out_->parked.store(1, std::memory_order_relaxed);
  shm::handshake_fence();
  if (!requests_.ready()) shm::futex_wait(bell, seen, std::nullopt, shm::Scope::shared);
  out_->parked.store(0, std::memory_order_relaxed);
}

int refuse(const std::string& why) {
  std::fprintf(stderr, "forge-worker: %s\n", why.c_str());
  return 2;
}

}  // namespace

bool wants_worker(int argc, char** argv) {
  return argc == 3 && std::string_view(argv[1]) == kWorkerFlag;
}

int run_worker(int argc, char** argv) {
  if (!wants_worker(argc, argv)) {
    return refuse(
        "this program is started by a forge controller, not by hand; see the README for "
        "forge-bench and for embedding forge");
  }
  if (const Status status = die_with_parent(static_cast<pid_t>(std::atol(argv[2]))); !status.ok())
    return refuse(status.message);
  auto requests = shm::Segment::attach(shm::FileDescriptor(kRequestFd), shm::Access::read_only);
  auto responses = shm::Segment::attach(shm::FileDescriptor(kResponseFd), shm::Access::read_write);
  auto arena = shm::Segment::attach(shm::FileDescriptor(kArenaFd), shm::Access::read_only);
  if (!requests) return refuse(requests.error().what());
  if (!responses) return refuse(responses.error().what());
  if (!arena) return refuse(arena.error().what());
  if (requests->size() < sizeof(shm::RequestFile) || responses->size() < sizeof(shm::ResponseFile))
    return refuse("control files are too small");
  const auto* file = reinterpret_cast<const shm::RequestFile*>(requests->data());
  if (const auto wrong = shm::invalid(file->header, requests->size()); !wrong.empty())
    return refuse("request file: " + wrong);
  responses->prefault(shm::kAnswersOffset, shm::Access::read_write);
  if (const int cpu = file->identity.cpu; cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu), &set);
    if (::sched_setaffinity(0, sizeof(set), &set) != 0)
      std::fprintf(stderr, "forge-worker: cannot pin to core %d\n", cpu);
  }
  return serve(std::move(*requests), std::move(*responses), std::move(*arena));
}

int serve(shm::Segment requests, shm::Segment responses, shm::Segment arena) {
  Worker worker(std::move(requests), std::move(responses), std::move(arena));
  return worker.run();
}

}  // namespace forge::replicas
