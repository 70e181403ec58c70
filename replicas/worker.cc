#include "replicas/worker.h"

#include <forge/actor.h>
#include <forge/payload.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gpu/host_backend.h"
#include "replicas/actor_host.h"
#include "replicas/affinity.h"
#include "replicas/answer_pool.h"
#include "replicas/event_loop.h"
#include "replicas/execution.h"
#include "replicas/flight.h"
#include "replicas/manifest.h"
#include "replicas/outbox.h"
#include "replicas/plugin_loader.h"
#include "replicas/process.h"
#include "replicas/rank_group.h"
#include "shm/control_file.h"
#include "shm/doorbell.h"
#include "shm/failpoint.h"
#include "shm/prefetch.h"
#include "shm/wait_strategy.h"

namespace forge::replicas {
namespace {

class Worker {
 public:
  Worker(shm::Segment requests, shm::Segment responses, shm::Segment arena,
         std::vector<shm::Segment> group_files);
  int run();

 private:
  void add_execution() {
    executions_.push_back(std::make_unique<Execution>(place_));
    idle_.push_back(executions_.back().get());
  }
  bool has_place() const { return active_.size() < in_->identity.calls; }
  bool step();
  bool take(std::uint32_t count, std::uint64_t position);
  bool set_up(const shm::RequestSlot& request);
  bool set_up(detail::Reader& reader, shm::ResponseSlot& slot);
  void write_status(shm::ResponseSlot& slot, const Status& status);
  bool resume();
  bool publish(bool restart, std::uint32_t taken);
  void ring_controller();
  bool anything_to_do() {
    return (has_place() && requests_.ready()) || (!active_.empty() && loop_.ready());
  }
  void park();

  shm::Segment request_file_;
  shm::Segment response_file_;
  shm::Segment arena_;
  const std::unique_ptr<gpu::Backend> backend_;
  const std::unique_ptr<gpu::PinnedRegion> pinned_arena_;  // as long as the arena is mapped
  const shm::RequestFile* in_;
  shm::ResponseFile* out_;
  shm::RingConsumer<shm::RequestSlot> requests_;
  shm::RingProducer<shm::ResponseSlot> responses_;
  AnswerPool answers_;
  Outbox outbox_;
  FlightRecorder flight_;
  RankGroup group_;
  std::optional<ActorHost> host_;  // after the memory its tensors lie in
  detail::Writer writer_;
  Workplace place_;
  EventLoop loop_;
  std::vector<std::unique_ptr<Execution>> executions_;  // all of them
  std::vector<Execution*> idle_;
  std::vector<Execution*> active_;  // coroutines that wait
  std::uint64_t beats_ = 0;
  std::uint32_t rung_ = 0;  // the controller's parking we have rung for
};

Worker::Worker(shm::Segment requests, shm::Segment responses, shm::Segment arena,
               std::vector<shm::Segment> group_files)
    : request_file_(std::move(requests)),
      response_file_(std::move(responses)),
      arena_(std::move(arena)),
      backend_(gpu::make_host_backend()),
      pinned_arena_(backend_->pin({arena_.data(), arena_.size()}).value()),
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
  add_execution();
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
    if (busy) {
      out_->heartbeat.store(++beats_, std::memory_order_relaxed);
      spinner.reset();
    } else if (!spinner.keep_spinning()) {
      answers_.collect();
      park();
      spinner.reset();
    }
    if (requests_.corrupt()) {
      out_->exit_reason.store(shm::ExitReason::bad_layout, std::memory_order_relaxed);
      return 1;
    }
  }
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

bool Worker::take(std::uint32_t count, std::uint64_t position) {
  if (count > shm::kWindow || requests_.peek(count - 1) == nullptr)
    std::abort();  // never: one commit
  if (idle_.empty()) add_execution();
  Execution& execution = *idle_.back();
  bool all = true;
  for (std::uint32_t i = 0; i < count; ++i) all = execution.accept(*requests_.peek(i)) && all;
  FORGE_FAILPOINT(accepted);
  // Stored before the call has any effect. Relaxed: it is believed after our death, and that comes
  // between two instructions.
  if (execution.has_work())
    out_->started.position.store(position + count, std::memory_order_relaxed);
  FORGE_FAILPOINT(started);
  if (execution.run()) {
    execution.finish();
    return publish(execution.wants_restart(), count);
  }
  FORGE_FAILPOINT(suspended);
  idle_.pop_back();
  active_.push_back(&execution);
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
    execution->finish();
    restart = restart || execution->wants_restart();
    idle_.push_back(execution);
    return true;
  };
  return std::erase_if(active_, ended) == 0 || publish(restart, 0);
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
  if (restart) out_->exit_reason.store(shm::ExitReason::restart, std::memory_order_relaxed);
  return !restart;
}

// ---- setup

bool Worker::set_up(const shm::RequestSlot& request) {
  FORGE_FAILPOINT(setup_begun);
  RequestSource source(arena_);
  shm::ResponseSlot& slot = outbox_.claim(request);
  group_.begin(request.lockstep);
  out_->started.position.store(requests_.position() + 1, std::memory_order_relaxed);
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
  publish(false, 1);
  FORGE_FAILPOINT(setup_answered);
  if (!up) out_->exit_reason.store(shm::ExitReason::setup_failed, std::memory_order_relaxed);
  return up;
}

bool Worker::set_up(detail::Reader& reader, shm::ResponseSlot& slot) {
  Status status;
  try {
    if (reader.array() != 4) throw InvalidArgument("setup call of another build");
    const std::string plugin(reader.string());
    const std::string service(reader.string());
    const std::string actor(reader.string());
    std::vector<std::string> endpoints(reader.array());
    for (std::string& name : endpoints) name = reader.string();
    LoadedPlugin loaded = load_plugin(plugin);
    FORGE_FAILPOINT(plugin_opened);
    status = loaded.status;
    writer_.reset();
    if (status.ok() && actor.empty()) {
      encode(describe(*loaded.module, plugin), writer_);
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

/// The sleeper's half.
void Worker::park() {
  const shm::Word& bell = in_->worker_bell.word;
  const std::uint32_t seen = bell.load(std::memory_order_relaxed);
  // Acquire pairs with ring(): of what we have heard of, loop_.ready() knows.
  const std::uint32_t posted = loop_.bell().load(std::memory_order_acquire);
  out_->parked.store(1, std::memory_order_relaxed);
  shm::handshake_fence();
  FORGE_FAILPOINT(parked);
  if (!anything_to_do()) {
    if (active_.empty()) {
      shm::futex_wait(bell, seen, std::nullopt, shm::Scope::shared);
    } else if (shm::has_futex_waitv()) {
      const shm::WaitWord words[] = {{&bell, seen, shm::Scope::shared},
                                     {&loop_.bell(), posted, shm::Scope::priv}};
      shm::futex_wait_any(words, loop_.next());
    } else {  // one word only: look after the coroutines every millisecond
      const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
      shm::futex_wait(bell, seen, std::min(soon, loop_.next().value_or(soon)), shm::Scope::shared);
    }
  }
  FORGE_FAILPOINT(woken);
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
  // Our stdout is a pipe, which is fully buffered otherwise.
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  if (const Status status = die_with_parent(static_cast<pid_t>(std::atol(argv[2]))); !status.ok())
    return refuse(status.message);
  FORGE_FAILPOINT(born);
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
  auto group_files = attach_group_files(kGroupFd, file->identity);
  if (!group_files) return refuse(group_files.error().what());
  responses->prefault(shm::kAnswersOffset, shm::Access::read_write);
  settle(file->identity.cpu);
  note_crashes(reinterpret_cast<shm::ResponseFile*>(responses->data())->crash);
  FORGE_FAILPOINT(attached);
  return serve(std::move(*requests), std::move(*responses), std::move(*arena),
               std::move(*group_files));
}

int serve(shm::Segment requests, shm::Segment responses, shm::Segment arena,
          std::vector<shm::Segment> group_files) {
  Worker worker(std::move(requests), std::move(responses), std::move(arena),
                std::move(group_files));
  return worker.run();
}

}  // namespace forge::replicas
