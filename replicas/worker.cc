#include "replicas/worker.h"

#include <fcntl.h>
#include <forge/actor.h>
#include <forge/payload.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gpu/backend_loader.h"
#include "gpu/host_backend.h"
#include "replicas/actor_host.h"
#include "replicas/affinity.h"
#include "replicas/answer_pool.h"
#include "replicas/build.h"
#include "replicas/device_lane.h"
#include "replicas/event_loop.h"
#include "replicas/execution.h"
#include "replicas/flight.h"
#include "replicas/manifest.h"
#include "replicas/outbox.h"
#include "replicas/parent_watch.h"
#include "replicas/plugin_loader.h"
#include "replicas/process.h"
#include "replicas/rank_group.h"
#include "shm/clock.h"
#include "shm/control_file.h"
#include "shm/doorbell.h"
#include "shm/failpoint.h"
#include "shm/prefetch.h"
#include "shm/wait_strategy.h"

namespace forge::replicas {
namespace {

/// How often a busy worker shows how much device memory it uses.
constexpr std::int64_t kShowMemoryNs = 100'000'000;

class Worker {
 public:
  Worker(shm::Segment requests, shm::Segment responses, shm::Segment arena,
         std::vector<shm::Segment> group_files, Result<std::unique_ptr<gpu::Backend>> backend);
  int run();

 private:
  void add_execution() {
    executions_.push_back(std::make_unique<Execution>(place_));
    idle_.push_back(executions_.back().get());
  }
  bool has_place() const { return active_.size() + leaving_.size() < in_->identity.calls; }
  bool step();
  bool take(std::uint32_t count, std::uint64_t position);
  void mark_started(std::uint64_t end);
  bool set_up(const shm::RequestSlot& request);
  /// A build without CUDA, or a driver that is too old, says nothing of the device.
  shm::ExitReason why_not_up() const {
    return no_device_.code == ErrorCode::unavailable ? shm::ExitReason::device_lost
                                                     : shm::ExitReason::setup_failed;
  }
  bool set_up(detail::Reader& reader, shm::ResponseSlot& slot);
  void write_status(shm::ResponseSlot& slot, const Status& status);
  bool resume();
  void open_lane();
  [[noreturn]] void device_lost(const Status& status);
  void show_memory();
  bool watch_device(bool& busy);
  bool hand_over_complete();
  void hand_over_all();
  bool waits_for_device() const {
    return lane_ != nullptr && (!leaving_.empty() || lane_->has_waiting());
  }
  bool publish(bool restart, std::uint32_t taken);
  void ring_controller();
  void starve(std::size_t size);
  bool ask_for_room(std::size_t size);
  bool anything_to_do() {
    return (has_place() && requests_.ready()) || (!active_.empty() && loop_.ready());
  }
  void park();
  std::optional<EventLoop::Time> wake_at() const;

  shm::Segment request_file_;
  shm::Segment response_file_;
  shm::Segment arena_;
  Status no_device_;  // why there is none, if there should be
  const std::unique_ptr<gpu::Backend> backend_;
  const shm::RequestFile* in_;
  shm::ResponseFile* out_;
  shm::RingConsumer<shm::RequestSlot> requests_;
  shm::RingProducer<shm::ResponseSlot> responses_;
  AnswerPool answers_;
  Outbox outbox_;
  FlightRecorder flight_;
  std::unique_ptr<DeviceLane> lane_;  // null: no device
  RankGroup group_;
  std::optional<ActorHost> host_;  // after the memory its tensors lie in
  detail::Writer writer_;
  Workplace place_;
  EventLoop loop_;
  std::vector<std::unique_ptr<Execution>> executions_;  // all of them
  std::vector<Execution*> idle_;
  std::vector<Execution*> active_;  // coroutines that wait
  std::deque<Execution*> leaving_;  // ended; the device has not, or not with those before them
  std::int64_t memory_shown_ns_ = 0;
  std::int64_t device_busy_ns_ = 0;  // since when it has worked on the first of what we wait for
  std::uint64_t beats_ = 0;
  std::uint64_t asked_ = 0;      // how often we have asked for room for an answer
  bool restart_wanted_ = false;  // by what was handed over meanwhile
  std::uint32_t rung_ = 0;       // the controller's parking we have rung for
};

Worker::Worker(shm::Segment requests, shm::Segment responses, shm::Segment arena,
               std::vector<shm::Segment> group_files, Result<std::unique_ptr<gpu::Backend>> backend)
    : request_file_(std::move(requests)),
      response_file_(std::move(responses)),
      arena_(std::move(arena)),
      no_device_(backend ? Status() : to_status(backend.error())),
      backend_(backend && *backend ? std::move(*backend) : gpu::make_host_backend()),
      in_(reinterpret_cast<const shm::RequestFile*>(request_file_.data())),
      out_(reinterpret_cast<shm::ResponseFile*>(response_file_.data())),
      requests_(in_->requests, shm::kWindow, in_->requests_tail, out_->requests_head),
      responses_(out_->responses, shm::kWindow, out_->responses_tail, in_->responses_head),
      answers_(response_file_, in_->releases, in_->releases_tail, out_->releases_head),
      outbox_(responses_, answers_),
      flight_(out_->flight),
      group_(std::move(group_files), in_->identity, in_->header.incarnation),
      place_{*in_, arena_, outbox_, writer_, group_, *backend_, flight_} {
  out_->header = shm::make_header(response_file_.size(), in_->header.incarnation);
  place_.starve = [this](std::size_t size) { starve(size); };
  if (backend_->device().ordinal >= 0) open_lane();
  add_execution();
}

void Worker::open_lane() {
  auto lane = DeviceLane::create(*backend_, [this](const Status& status) { device_lost(status); });
  if (!lane) {
    no_device_ = to_status(lane.error());
    return;
  }
  lane_ = std::move(*lane);
  place_.lane = lane_.get();
  lane_->pin({arena_.data(), arena_.size()},
             {.read_only = backend_->device().pins_read_only, .file = arena_.fd()});
  if (arena_.fd() >= 0) {
    if (const Status status = arena_.protect(); !status.ok()) no_device_ = status;
  }
  answers_.pin_with([this](std::span<const std::byte> memory) { lane_->pin(memory, {}); });
  group_.use_device({.backend = *backend_,
                     .stream = lane_->compute(),
                     .allocate =
                         [this](DType dtype, std::span<const std::int64_t> shape) {
                           return lane_->allocate(dtype, shape);
                         },
                     .suspect = [this](const Status& why) { lane_->suspect(why); },
                     .lost = [this](const Status& status) { device_lost(status); }});
  show_memory();
}

/// For those who look in.
void Worker::show_memory() {
  const gpu::MemoryUse use = backend_->memory();
  out_->device_memory.used.store(use.used, std::memory_order_relaxed);
  out_->device_memory.pooled.store(use.pooled, std::memory_order_relaxed);
  out_->device_memory.total.store(use.total, std::memory_order_relaxed);
  memory_shown_ns_ = shm::coarse_now_ns();
}

int Worker::run() {
  // Constructor, setup() and destructor of the actor see the context of no call.
  const detail::ScopeGuard guard({executions_.front().get(), &loop_, nullptr});
  shm::Spinner spinner(static_cast<Wait>(in_->identity.wait));
  for (bool go_on = true; go_on;) {
    bool busy = false;
    if (has_place() && requests_.ready()) {
      go_on = step();
      busy = true;
    }
    if (!active_.empty() && loop_.run_due()) {
      go_on = resume() && go_on;
      busy = true;
    }
    if (lane_ != nullptr) go_on = watch_device(busy) && go_on;
    if (busy) {
      out_->heartbeat.store(++beats_, std::memory_order_relaxed);
      spinner.reset();
    } else if (!spinner.keep_spinning()) {
      answers_.collect();
      park();
      // While the device works, one look behind each nap is enough.
      if (!waits_for_device()) spinner.reset();
    }
    if (requests_.corrupt()) {
      out_->exit_reason.store(shm::ExitReason::bad_layout, std::memory_order_relaxed);
      return 1;
    }
  }
  hand_over_all();
  if (active_.empty()) host_.reset();  // what waits refers to it
  return out_->exit_reason.load(std::memory_order_relaxed) == shm::ExitReason::stopped ? 0 : 1;
}

/// One request, or one batch. False: this worker is done.
bool Worker::step() {
  FORGE_FAILPOINT(seen);
  const shm::RequestSlot& request = *requests_.front();
  const std::uint64_t block = request.block;
  if (block <= arena_.size() - 2 * shm::kCacheLine)
    shm::prefetch_for_read(arena_.data() + block, 2 * shm::kCacheLine);
  if (request.kind == shm::RequestKind::stop) {
    FORGE_FAILPOINT(stopping);
    out_->exit_reason.store(shm::ExitReason::stopped, std::memory_order_relaxed);
    return false;
  }
  if (request.kind == shm::RequestKind::setup) return set_up(shm::RequestSlot(request));
  return take(std::max<std::uint32_t>(request.batch, 1), requests_.position());
}

/// What lies below `end` may have effects from now on. Relaxed: it is believed after our death, and that
/// comes between two instructions; the fence keeps their order, which the compiler could change.
void Worker::mark_started(std::uint64_t end) {
  out_->started.position.store(end, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

bool Worker::take(std::uint32_t count, std::uint64_t position) {
  if (count > shm::kWindow || requests_.peek(count - 1) == nullptr)
    std::abort();  // never: one commit
  if (idle_.empty()) add_execution();
  Execution& execution = *idle_.back();
  idle_.pop_back();
  bool all = true;
  for (std::uint32_t i = 0; i < count; ++i) all = execution.accept(*requests_.peek(i)) && all;
  FORGE_FAILPOINT(accepted);
  if (execution.has_work()) mark_started(position + count);
  FORGE_FAILPOINT(started);
  const bool ended = execution.run();
  if (ended && (lane_ == nullptr || !execution.has_work())) {
    execution.finish();
    idle_.push_back(&execution);
    return publish(execution.wants_restart(), count);
  }
  FORGE_FAILPOINT(suspended);
  if (ended) {
    leaving_.push_back(&execution);
  } else {
    active_.push_back(&execution);
  }
  if (!all) return publish(false, count);  // those that are late do not wait for the others
  requests_.pop(count);
  return true;
}

/// After coroutines have gone on: those that have ended leave.
bool Worker::resume() {
  bool restart = false;
  const auto ended = [&](Execution* execution) {
    if (!execution->ended_now()) return false;
    FORGE_FAILPOINT(resumed);
    if (lane_ != nullptr) return leaving_.push_back(execution), true;
    execution->finish();
    restart = restart || execution->wants_restart();
    idle_.push_back(execution);
    return true;
  };
  return std::erase_if(active_, ended) == 0 || lane_ != nullptr || publish(restart, 0);
}

// ---- on a device

/// Coroutines that wait for it go on; calls that it has done are answered, in the order in which
/// they ended. A session's answers must come in the order of its calls.
bool Worker::watch_device(bool& busy) {
  if (!waits_for_device()) return true;
  bool go_on = true;
  bool any = false;
  if (lane_->has_waiting()) {
    const detail::ScopeGuard guard;
    any = lane_->resume_waiting();
  }
  if (!leaving_.empty() && leaving_.front()->complete()) {
    any = true;
    go_on = hand_over_complete();
  }
  if (any) device_busy_ns_ = 0;
  if (any && shm::coarse_now_ns() - memory_shown_ns_ > kShowMemoryNs) show_memory();
  busy = busy || any;
  return go_on;
}

bool Worker::hand_over_complete() {
  bool restart = false;
  do {
    Execution* const first = leaving_.front();
    leaving_.pop_front();
    first->hand_over();
    first->finish();
    restart = restart || first->wants_restart();
    idle_.push_back(first);
  } while (!leaving_.empty() && leaving_.front()->complete());
  return publish(restart, 0);
}

/// Before the end: nothing that was run stays without its answer.
void Worker::hand_over_all() {
  while (!leaving_.empty()) {
    leaving_.front()->wait();
    hand_over_complete();
  }
}

/// At once, without destructors: they would talk to the device, and hang there.
void Worker::device_lost(const Status& status) {
  std::fprintf(stderr, "forge-worker: the device is lost: %s\n", status.message.c_str());
  out_->exit_reason.store(shm::ExitReason::device_lost, std::memory_order_release);
  ::_exit(kDeviceLostStatus);
}

/// What has been answered leaves, and `taken` requests with it. False: the worker is to be replaced.
bool Worker::publish(bool restart, std::uint32_t taken) {
  FORGE_FAILPOINT(finished);
  outbox_.commit();
  FORGE_FAILPOINT(published);
  requests_.pop(taken);
  FORGE_FAILPOINT(popped);
  ring_controller();
  FORGE_FAILPOINT(rung);
  outbox_.prefetch();
  restart = std::exchange(restart_wanted_, false) || restart;
  if (restart) out_->exit_reason.store(shm::ExitReason::restart, std::memory_order_relaxed);
  return !restart;
}

// ---- no room for an answer

/// The controller takes away what has been published, and copies out what nobody has fetched. All that
/// has ended must leave first: it may be what takes the room.
void Worker::starve(std::size_t size) {
  if (!answers_.could_hold(size)) return;
  while (!leaving_.empty()) {
    leaving_.front()->wait();
    restart_wanted_ = !hand_over_complete() || restart_wanted_;
  }
  while (!answers_.hold(size) && ask_for_room(size)) {
  }
}

/// True if blocks have come back; false if there are none to come. The sleeper's half of the handshake
/// in doorbell.h.
bool Worker::ask_for_room(std::size_t size) {
  constexpr auto kLongestSleep = std::chrono::milliseconds(20);
  bool asked = false;
  const shm::Word& bell = in_->worker_bell.word;
  for (;;) {
    if (!asked && outbox_.starve(size)) {
      ++asked_;
      asked = true;
    }
    ring_controller();
    const std::uint32_t seen = bell.load(std::memory_order_relaxed);
    out_->parked.store(1, std::memory_order_relaxed);
    shm::handshake_fence();
    // Acquire pairs with Channel::feed(): we see what was sent before it was said.
    const bool held = asked && in_->answers_held.load(std::memory_order_acquire) >= asked_;
    const bool any = answers_.collect();
    if (!any && !held) {
      shm::futex_wait(bell, seen, std::chrono::steady_clock::now() + kLongestSleep,
                      shm::Scope::shared);
    }
    out_->parked.store(0, std::memory_order_relaxed);
    if (any) return true;
    if (held) return false;
  }
}

// ---- setup

bool Worker::set_up(const shm::RequestSlot& request) {
  FORGE_FAILPOINT(setup_begun);
  RequestSource source(arena_);
  shm::ResponseSlot& slot = outbox_.claim(request);
  group_.begin(request.lockstep);
  mark_started(requests_.position() + 1);
  FORGE_FAILPOINT(setup_started);
  bool up = false;
  if (source.holds(request)) {
    detail::Reader arguments = source.begin(request);
    up = set_up(arguments, slot);
  } else {
    write_status(slot, {ErrorCode::invalid_argument,
                        "a request lies outside of the arena; use controller and worker of one "
                        "build"});
  }
  source.end();
  if (!up && group_.let_down()) slot.flags |= shm::kLetDown;
  publish(false, 1);
  // The answer first: what the others say of it is not heard before it.
  group_.end(up ? ErrorCode::ok : ErrorCode::actor_error);
  FORGE_FAILPOINT(setup_answered);
  if (!up) out_->exit_reason.store(why_not_up(), std::memory_order_relaxed);
  return up;
}

bool Worker::set_up(detail::Reader& reader, shm::ResponseSlot& slot) {
  Status status;
  try {
    if (reader.array() != 5) throw InvalidArgument("setup call of another build");
    const std::string plugin(reader.string());
    std::string build(reader.string());
    const std::string service(reader.string());
    const std::string actor(reader.string());
    std::vector<std::string> endpoints(reader.array());
    for (std::string& name : endpoints) name = reader.string();
    if (!no_device_.ok()) throw_status(no_device_);
    if (const Status same = check_build(plugin, build); !same.ok()) throw_status(same);
    if (build.empty()) build = find_build(plugin);
    LoadedPlugin loaded = load_plugin(plugin);
    FORGE_FAILPOINT(plugin_opened);
    status = loaded.status;
    if (status.ok()) status = check_build(plugin, build);  // was it that file which was opened?
    writer_.reset();
    if (status.ok() && actor.empty()) {
      Manifest manifest = describe(*loaded.module, plugin);
      manifest.build = build;
      encode(manifest, writer_);
      answers_.write(writer_, slot);
      return true;
    }
    if (status.ok()) {
      place_.host = &host_.emplace(std::move(loaded.module));
      status = host_->create(actor, reader);
      FORGE_FAILPOINT(constructed);
    }
    if (status.ok()) host_->number(endpoints);
    if (status.ok()) status = host_->setup();
    FORGE_FAILPOINT(set_up);
    if (status.ok()) {
      writer_.nil();
      answers_.write(writer_, slot);
      return true;
    }
  } catch (const Error& error) {
    status = to_status(error);
  } catch (...) {  // not the actor's, but whoever waits wants to hear of it too
    status = current_exception_status("starting the actor");
  }
  write_status(slot, status);
  return false;
}

void Worker::write_status(shm::ResponseSlot& slot, const Status& status) {
  writer_.reset();
  outbox_.error(slot, writer_, *make_error(status));
}

// ---- waiting

/// The publisher's half of the handshake in doorbell.h.
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

/// When to look again although nobody rings.
std::optional<EventLoop::Time> Worker::wake_at() const {
  const auto timer = active_.empty() ? std::nullopt : loop_.next();
  if (!waits_for_device()) return timer;
  const auto now = std::chrono::steady_clock::now();
  const auto look = now + nap_after(std::chrono::nanoseconds(shm::to_ns(now) - device_busy_ns_));
  return std::min(look, timer.value_or(look));
}

/// The sleeper's half.
void Worker::park() {
  if (waits_for_device() && device_busy_ns_ == 0) device_busy_ns_ = shm::now_ns();
  if (lane_ != nullptr && !waits_for_device()) show_memory();  // nothing changes while it sleeps
  const shm::Word& bell = in_->worker_bell.word;
  const std::uint32_t seen = bell.load(std::memory_order_relaxed);
  // Acquire pairs with ring(): of what we have heard of, loop_.ready() knows.
  const std::uint32_t posted = loop_.bell().load(std::memory_order_acquire);
  out_->parked.store(1, std::memory_order_relaxed);
  shm::handshake_fence();
  FORGE_FAILPOINT(parked);
  if (!anything_to_do()) {
    if (active_.empty()) {
      shm::futex_wait(bell, seen, wake_at(), shm::Scope::shared);
    } else if (shm::has_futex_waitv()) {
      const shm::WaitWord words[] = {{&bell, seen, shm::Scope::shared},
                                     {&loop_.bell(), posted, shm::Scope::priv}};
      shm::futex_wait_any(words, wake_at());
    } else {  // one word only: look after the coroutines every millisecond
      const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
      shm::futex_wait(bell, seen, std::min(soon, wake_at().value_or(soon)), shm::Scope::shared);
    }
  }
  FORGE_FAILPOINT(woken);
  out_->parked.store(0, std::memory_order_relaxed);
}

/// Writable, for a device that does not pin what is read-only: until it has been pinned. Where the
/// controller has sealed the arena, that is refused; then it stays unpinned.
Result<shm::Segment> attach_arena(const Result<std::unique_ptr<gpu::Backend>>& backend) {
  if (backend && (*backend)->device().ordinal >= 0 && !(*backend)->device().pins_read_only) {
    shm::FileDescriptor copy(::fcntl(kArenaFd, F_DUPFD_CLOEXEC, 0));
    auto writable = shm::Segment::attach(std::move(copy), shm::Access::read_write);
    if (writable) return writable;
  }
  return shm::Segment::attach(shm::FileDescriptor(kArenaFd), shm::Access::read_only);
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
  // Our stdout is a pipe, which is fully buffered otherwise.
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  const auto parent = static_cast<pid_t>(std::atol(argv[2]));
  if (const Status status = die_with_parent(parent); !status.ok()) return refuse(status.message);
  close_on_exec_from(kRequestFd);
  watch_parent(parent);
  FORGE_FAILPOINT(born);
  auto requests = shm::Segment::attach(shm::FileDescriptor(kRequestFd), shm::Access::read_only);
  auto responses = shm::Segment::attach(shm::FileDescriptor(kResponseFd), shm::Access::read_write);
  auto backend = gpu::make_backend(gpu::BackendSpec::from_environment());
  auto arena = attach_arena(backend);
  if (!requests) return refuse(requests.error().what());
  if (!responses) return refuse(responses.error().what());
  if (!arena) return refuse(arena.error().what());
  if (requests->size() < sizeof(shm::RequestFile) || responses->size() < sizeof(shm::ResponseFile))
    return refuse("control files are too small");
  const auto* file = reinterpret_cast<const shm::RequestFile*>(requests->data());
  if (const auto wrong = shm::invalid(file->header, requests->size()); !wrong.empty())
    return refuse("request file: " + wrong);
  auto group_files = attach_group_files(kGroupFd, file->identity);
  if (!group_files) return refuse(group_files.error().what());
  responses->prefault(shm::kAnswersOffset, shm::Access::read_write);
  settle(file->identity.cpu);
  if (wants_backtrace())
    note_crashes(reinterpret_cast<shm::ResponseFile*>(responses->data())->crash);
  FORGE_FAILPOINT(attached);
  return serve(std::move(*requests), std::move(*responses), std::move(*arena),
               std::move(*group_files), std::move(backend));
}

int serve(shm::Segment requests, shm::Segment responses, shm::Segment arena,
          std::vector<shm::Segment> group_files, Result<std::unique_ptr<gpu::Backend>> backend) {
  Worker worker(std::move(requests), std::move(responses), std::move(arena), std::move(group_files),
                std::move(backend));
  return worker.run();
}

}  // namespace forge::replicas
