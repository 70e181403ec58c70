// Starting replicas. What happens when one dies is in recovery.cc.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/engine.h"
#include "core/host.h"
#include "core/lock_soon.h"
#include "replicas/affinity.h"
#include "replicas/worker.h"

namespace forge::core {
namespace {

/// How long a job on the watchdog thread tries to get the lock, and how long it stays away then.
constexpr std::chrono::microseconds kPatience{200};
constexpr std::chrono::milliseconds kComeBack{1};

/// The environment of one worker: ours, then the service's, then the rank's, then forge's own variables.
/// Devices are no heirloom: it sees its own, those that the service names, or none.
std::vector<std::string> environment(std::map<std::string, std::string> variables,
                                     const Launch& launch, std::uint32_t rank,
                                     const gpu::Device& device, const std::string& master_port) {
  variables["CUDA_VISIBLE_DEVICES"] = "";
  for (const char* const name : replicas::kDeviceVariables) variables.erase(name);
  for (const auto& [name, value] : launch.options.env) variables[name] = value;
  if (const auto own = launch.options.rank_env.find(static_cast<int>(rank));
      own != launch.options.rank_env.end()) {
    for (const auto& [name, value] : own->second) variables[name] = value;
  }
  variables["RANK"] = variables["LOCAL_RANK"] = std::to_string(rank);
  variables["WORLD_SIZE"] = std::to_string(launch.options.procs);
  variables["MASTER_ADDR"] = "127.0.0.1";
  variables["MASTER_PORT"] = master_port;
  if (!device.uuid.empty()) {
    variables["CUDA_VISIBLE_DEVICES"] = variables[gpu::kDeviceVariable] = device.uuid;
    variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID";
    if (launch.options.cpus.empty() && !device.cpus.empty())
      variables[replicas::kCpusVariable] = device.cpus;
  }
  std::vector<std::string> result;
  result.reserve(variables.size());
  for (const auto& [name, value] : variables)
    result.push_back(std::string(name).append("=").append(value));
  return result;
}

/// A TCP port nobody listens on now, for ranks that want to meet (MASTER_PORT). 0 if there is none.
std::uint16_t free_port() {
  const shm::FileDescriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (!fd || ::bind(fd.get(), generic, size) != 0 || ::getsockname(fd.get(), generic, &size) != 0)
    return 0;
  return ntohs(address.sin_port);
}

}  // namespace

// ---- starting

/// What a worker of this plugin is set up with. Every incarnation of a version reads it.
Status Engine::make_setup(Version& version) {
  detail::Writer writer;
  writer.array(5);
  writer.string(version.plugin);
  writer.string(version.build);
  writer.string(launch_.name);
  writer.string(launch_.actor);
  // Requests number endpoints as they are numbered here, whatever their order in the plugin.
  writer.array(actor_ == nullptr ? 0 : static_cast<std::uint32_t>(actor_->endpoints.size()));
  if (actor_ != nullptr) {
    for (const auto& endpoint : actor_->endpoints) writer.string(endpoint.name);
  }
  const std::span<const std::byte> arguments(launch_.arguments);
  const std::size_t own = writer.head().size();
  const std::size_t head = own + launch_.arguments_head;
  const auto blobs = detail::blobs_of(arguments, launch_.arguments_head);
  const std::size_t blobs_at = detail::align_up(head, detail::kBlockAlignment);
  const std::size_t size = blobs.empty() ? head : blobs_at + blobs.size();
  auto setup = arena_->allocate_tensor(DType::u8, {static_cast<std::int64_t>(size)}, size);
  if (!setup) {
    return {ErrorCode::payload_too_large, "constructor arguments of " + std::to_string(size) +
                                              " bytes do not fit the arena of service '" +
                                              launch_.name + "'; raise arena_bytes"};
  }
  std::byte* const to = setup->storage()->data;
  std::memcpy(to, writer.head().data(), own);
  if (launch_.arguments_head != 0) std::memcpy(to + own, arguments.data(), launch_.arguments_head);
  if (!blobs.empty()) std::memcpy(to + blobs_at, blobs.data(), blobs.size());
  version.setup = std::move(*setup);
  version.setup_head = static_cast<std::uint32_t>(head);
  return {};
}

Status Engine::start() {
  Lock lock(mutex_);
  auto version = std::make_shared<Version>();
  version->plugin = launch_.plugin;
  version->build = actor_ == nullptr ? "" : actor_->build;
  version->worker_path = launch_.worker_path;
  version->offers.assign(bound_.size(), true);
  if (Status status = make_setup(*version); !status.ok()) return status;
  version_ = std::move(version);
  host_->engine_thread().add(shared_from_this());
  const auto all = everyone();
  for (Unit* const unit : all) {
    if (!start_error_.ok()) break;
    unit->version = version_;
    if (unit->wanted) {
      plan(*unit, SteadyClock::now());
    } else {
      unit->state = ReplicaState::stopped;
    }
  }
  const bool in_time =
      changed_.wait_until(lock, detail::from_now(launch_.options.start_timeout), [&] {
        return !start_error_.ok() || state_ != State::serving ||
               std::all_of(all.begin(), all.end(), [](const Unit* unit) {
                 return !unit->wanted || unit->state == ReplicaState::healthy;
               });
      });
  starting_ = false;
  born_ = SteadyClock::now();
  if (autoscaler_) host_->watchdog().post([self = shared_from_this()] { self->autoscale_later(); });
  Status status = start_error_;
  if (status.ok() && state_ != State::serving) {
    status = {ErrorCode::stopped, "service '" + launch_.name + "' was shut down while it started"};
  }
  if (status.ok() && !in_time) {
    status = {ErrorCode::deadline_exceeded,
              "service '" + launch_.name +
                  "' did not come up within start_timeout; raise it or look at what setup() does"};
  }
  lock.unlock();
  if (!status.ok()) shutdown(std::chrono::nanoseconds(0));
  return status;
}

/// Replicas, then spares.
std::vector<Unit*> Engine::everyone() const {
  std::vector<Unit*> all;
  for (const auto* units : {&units_, &spares_}) {
    for (const auto& unit : *units) all.push_back(unit.get());
  }
  return all;
}

Status Engine::make_channels(const Unit& unit, std::uint64_t incarnation, Channels& out) const {
  out.clear();
  const auto& cpus = launch_.options.cpus;
  for (std::uint32_t rank = 0; rank < procs_; ++rank) {
    const std::size_t turn = unit.idx * procs_ + rank;
    auto channel = replicas::Channel::create(
        {.name = rank_name(unit, rank),
         .incarnation = incarnation,
         .replica = unit.idx,
         .rank = rank,
         .procs = procs_,
         .wait = launch_.options.wait,
         .cpu = cpus.empty() ? -1 : cpus[turn % cpus.size()],
         .calls = procs_ == 1
                      ? static_cast<std::uint32_t>(launch_.options.replica_max_concurrent_requests)
                      : 1,
         .answer_bytes = launch_.options.arena_bytes});
    if (!channel) return to_status(channel.error());
    out.push_back(std::move(*channel));
  }
  return {};
}

// ---- a life begins

/// The next life of a replica that has none now. Any thread.
void Engine::plan(Unit& unit, SteadyTime at) {
  if (unit.life->stage() == Stage::planned) unit.life->enter(Stage::ended);  // another time
  unit.life = std::make_shared<Life>(unit, unit.version);
  // Weak: a service must not wait for its last restart to end.
  auto begins = [weak = weak_from_this(), life = std::weak_ptr(unit.life)] {
    const auto self = weak.lock();
    const auto due = life.lock();
    if (self && due) self->begin(due);
  };
  const bool posted =
      host_->watchdog().post([weak = weak_from_this(), at, begins = std::move(begins)]() mutable {
        const auto self = weak.lock();
        if (!self) return;
        if (at <= SteadyClock::now()) return begins();
        self->host_->watchdog().at(at, std::move(begins));
      });
  if (posted) return;
  unit.life->enter(Stage::ended);
  setup_failed(unit, {ErrorCode::stopped, "the controller has been shut down"});
  unit.state = ReplicaState::stopped;
}

/// A planned life gets its control files, then its workers.
void Engine::begin(const LifePtr& life) {  // on the watchdog thread
  on_watchdog([this, life](Lock& lock) {
    if (is_called_off(*life)) return;
    Unit& unit = *life->unit;
    unit.state = unit.incarnation == 0 ? ReplicaState::uninitialized : ReplicaState::recovering;
    life->version = unit.version;
    if (take_over(unit)) return;
    const Status status = settle_seats(unit);
    if (!status.ok() || !unit.prepared.empty()) {
      begin_with(life, status, std::exchange(unit.prepared, {}));
      return;
    }
    const std::uint64_t next = unit.incarnation + 1;
    lock.unlock();  // files take a while to make, and callers wait for the lock
    Channels channels;
    const Status made = make_channels(unit, next, channels);
    on_watchdog([this, life, made, channels](Lock&) {
      if (!is_called_off(*life)) begin_with(life, made, channels);
    });
  });
}

bool Engine::is_called_off(const Life& life) const {
  return life.stage() != Stage::planned || state_ != State::serving;
}

void Engine::begin_with(const LifePtr& life, const Status& status, const Channels& channels) {
  Unit& unit = *life->unit;
  ++unit.incarnation;
  if (!status.ok()) {
    cannot_start(unit, status);
    return;
  }
  equip(*life, channels);
  host_->watchdog().post([self = shared_from_this(), life] { self->spawn(life); });
}

/// A replica's control files are its life's.
void Engine::equip(Life& life, const Channels& channels) {
  Unit& unit = *life.unit;
  life.enter(Stage::spawning);
  for (const auto& channel : channels) {
    channel->assign(unit.idx, unit.incarnation);
    life.ranks.push_back({channel, {}, true});
    const std::size_t rank = life.ranks.size() - 1;
    if (rank < unit.seats.size()) life.ranks.back().seat = unit.seats[rank];
  }
  processes_ += procs_;
  poll_set_changed();
}

/// The life of a spare that is up becomes the replica's next one, and the spare begins another.
bool Engine::take_over(Unit& unit) {
  if (unit.spare) return false;
  const auto up = std::find_if(spares_.begin(), spares_.end(), [&](const auto& spare) {
    return spare->state == ReplicaState::healthy && spare->life->version == unit.version;
  });
  if (up == spares_.end()) return false;
  Unit& spare = **up;
  ++unit.incarnation;
  unit.life->enter(Stage::ended);  // it need not begin
  unit.life = std::exchange(spare.life, std::make_shared<Life>());
  spare.state = ReplicaState::recovering;
  unit.life->unit = &unit;
  swap_seats(unit, spare);
  for (std::uint32_t rank = 0; rank < procs_; ++rank) {
    unit.life->ranks[rank].channel->assign(unit.idx, unit.incarnation);
    host_->output().rename(unit.life->ranks[rank].output, rank_name(unit, rank));
  }
  ++counters_.takeovers;
  becomes_healthy(unit);  // first: calls wait for it, nobody for the next spare
  plan(spare, SteadyClock::now());
  return true;
}

std::string Engine::name_of(const Unit& unit) const {
  return unit.spare ? "spare " + std::to_string(unit.idx - units_.size())
                    : "replica " + std::to_string(unit.idx);
}

void Engine::tell(LogLevel level, const char* kind, const Unit* unit,
                  const std::string& text) const {
  if (launch_.actor.empty()) return;  // it only describes a plugin
  const std::string who = "service '" + launch_.name + "': ";
  const int replica = unit == nullptr || unit->spare ? -1 : static_cast<int>(unit->idx);
  host_->event({level, kind, launch_.name, replica,
                who + (unit == nullptr ? "" : name_of(*unit) + " ") + text});
}

std::string Engine::rank_name(const Unit& unit, std::uint32_t rank) const {
  const std::string who =
      unit.spare ? "spare" + std::to_string(unit.idx - units_.size()) : std::to_string(unit.idx);
  return launch_.name + "/" + who + "." + std::to_string(rank);
}

/// Starts all workers of a life, or as many as can be. Without the lock: it takes a while.
void Engine::spawn(const LifePtr& life) {  // on the watchdog thread
  const std::string master_port = std::to_string(free_port());
  auto started = std::make_shared<std::vector<Started>>();
  for (std::uint32_t rank = 0; rank < procs_; ++rank) {
    started->push_back(spawn_rank(life, rank, master_port));
    if (!started->back().process) break;
  }
  on_watchdog([this, life, started](Lock&) { spawned(life, *started); });
}

Engine::Started Engine::spawn_rank(const LifePtr& life, std::uint32_t rank,
                                   const std::string& master_port) {
  // Ranks and their channels stay what they are until all have been reaped: after us.
  const std::vector<Rank>& ranks = life->ranks;
  auto output = host_->output().open(rank_name(*life->unit, rank));
  if (!output) return {output.error_ptr(), 0};
  replicas::SpawnSpec spec;
  spec.path = life->version->worker_path;
  spec.arguments = {"--forge-worker", std::to_string(::getpid())};
  spec.environment =
      environment(host_->environment(), launch_, rank, ranks[rank].seat.device, master_port);
  spec.fds = {{output->out.get(), STDOUT_FILENO},
              {output->err.get(), STDERR_FILENO},
              {ranks[rank].channel->request_fd(), replicas::kRequestFd},
              {ranks[rank].channel->response_fd(), replicas::kResponseFd},
              {arena_->fd(), replicas::kArenaFd},
              {host_->engine_thread().event_fd(), replicas::kEventFd}};
  for (std::uint32_t other = 0; procs_ > 1 && other < procs_; ++other) {
    spec.fds.push_back(
        {ranks[other].channel->group_fd(), replicas::kGroupFd + static_cast<int>(other)});
  }
  auto process = host_->watchdog().spawn(
      spec,
      {[self = shared_from_this(), life, rank, id = output->id](const replicas::ExitInfo& exit) {
         self->host_->output().close(id);
         self->on_watchdog(
             [engine = self.get(), life, rank, exit](Lock&) { engine->on_exit(life, rank, exit); });
       },
       [self = shared_from_this(), life, rank] {
         self->on_watchdog(
             [engine = self.get(), life, rank](Lock&) { engine->on_stuck(life, rank); });
       }});
  if (!process) host_->output().close(output->id);
  return {std::move(process), output->id};
}

/// What has become of starting its workers.
void Engine::spawned(const LifePtr& life, const std::vector<Started>& started) {
  Unit& unit = *life->unit;
  for (std::uint32_t rank = 0; rank < started.size(); ++rank) {
    if (!started[rank].process) continue;
    life->ranks[rank].output = started[rank].output;
    life->ranks[rank].process = *started[rank].process;
    // It was called off meanwhile.
    if (life->stage() == Stage::fenced || unit.state == ReplicaState::stopped)
      host_->watchdog().kill(*started[rank].process);
  }
  const auto& last = started.back().process;
  if (last) {
    for (const Rank& rank : life->ranks) rank.channel->close_fds();
    if (life->stage() != Stage::spawning) return;
    life->enter(Stage::running);
    if (unit.state != ReplicaState::stopped) send_setup(unit);
    return;
  }
  life->shortage = last.error().error_code() == ErrorCode::unavailable;
  setup_failed(unit, to_status(last.error()));
  // The ranks that never were count as dead.
  for (auto missing = static_cast<std::uint32_t>(started.size()) - 1; missing < procs_; ++missing)
    rank_gone(unit, missing);
  fence(unit, FenceReason::setup_failed);
  if (!life->any_alive()) bury(unit);
}

void Engine::send_setup(Unit& unit) {
  replicas::Entry& entry = ledger_.open(0);
  entry.slot.kind = shm::RequestKind::setup;
  const Version& version = *unit.life->version;  // lives as long as the workers that read it
  entry.slot.block = version.setup.storage()->home_offset;
  entry.slot.block_size = version.setup.byte_count();
  entry.slot.head_size = version.setup_head;
  entry.home = unit.idx;
  if (next_pulse_ == SteadyTime::max()) begin_pulse();
  send(entry, unit);
}

void Engine::setup_answered(Unit& unit, std::uint32_t rank, const shm::ResponseSlot& slot) {
  const auto& memory = *unit.life->ranks[rank].channel->answers();
  const std::byte* head = slot.block == 0 ? slot.answer : memory.data() + slot.block;
  if (slot.kind == shm::ResponseKind::value) {
    if (rank == 0) description_.assign(head, head + slot.head_size);
  } else {
    Answer answer;
    answer.head.assign(head, head + slot.head_size);
    const std::string who = procs_ == 1 ? "" : ", rank " + std::to_string(rank) + ",";
    rank_failed_setup(unit,
                      to_status(*decode_error(answer, "starting " + name_of(unit) + who + " of '" +
                                                          launch_.name + "'")),
                      (slot.flags & shm::kLetDown) != 0);
  }
  if (slot.block != 0) unit.life->ranks[rank].channel->answers()->release(slot.block);
}

/// `let_down`: because of another rank, whose own error takes the place of this one.
void Engine::rank_failed_setup(Unit& unit, const Status& status, bool let_down) {
  Life& life = *unit.life;
  if (!life.setup_error.ok()) {
    if (!life.let_down || let_down) return;
    if (start_error_.message == life.setup_error.message) start_error_ = {};
    life.setup_error = {};
  }
  life.let_down = let_down;
  setup_failed(unit, status);
}

void Engine::setup_finished(Unit& unit) {
  if (!unit.life->setup_error.ok()) fence(unit, FenceReason::setup_failed);
  // Being killed, or dead since it answered: bury() decides what next.
  if (unit.life->stage() != Stage::running || unit.state == ReplicaState::stopped) return;
  becomes_healthy(unit);
  // The next incarnation's files are made now, so that a restart does not wait for them.
  host_->watchdog().post([self = shared_from_this(), life = unit.life] { self->prepare(life); });
}

void Engine::becomes_healthy(Unit& unit) {
  unit.state = ReplicaState::healthy;
  unit.arriving = false;
  unit.failure.clear();
  unit.life->came_up = true;
  seats_started(unit);
  tell(LogLevel::debug, "up", &unit, "is up, incarnation " + std::to_string(unit.incarnation));
  changed_.notify_all();
  if (unit.spare) return;
  update_healthy();
  pump(unit);
  dispatch_waiting();
  leave(unit);
}

void Engine::prepare(const LifePtr& life) {  // on the watchdog thread
  if (launch_.mesh || launch_.actor.empty()) return;
  on_watchdog([this, life](Lock& lock) {
    Unit& unit = *life->unit;
    const std::uint64_t next = unit.incarnation + 1;
    lock.unlock();
    Channels channels;
    if (!make_channels(unit, next, channels).ok()) return;  // the restart tries again and says why
    on_watchdog([this, &unit, next, channels](Lock&) {
      if (unit.incarnation < next && state_ == State::serving && unit.wanted)
        unit.prepared = channels;
    });
  });
}

void Engine::setup_failed(Unit& unit, const Status& status) {
  unit.failure = status.message;
  if (unit.life->setup_error.ok()) unit.life->setup_error = status;
  if (starting_ && start_error_.ok()) start_error_ = status;
  changed_.notify_all();
}

void Engine::cannot_start(Unit& unit, const Status& status) {
  unit.life->enter(Stage::ended);
  setup_failed(unit, status);
  update_healthy();
  if (starting_ || state_ != State::serving) {
    unit.state = ReplicaState::stopped;
    return;
  }
  if (!unit.wanted) return leave(unit);
  schedule_restart(unit, {replicas::DeathKind::in_setup, status.code == ErrorCode::unavailable});
}

// ---- the watchdog thread and the lock

/// The watchdog thread serves all services and waits for the lock of none: a job that does not get it
/// soon comes back a millisecond later, and those behind it keep their order. A job may let go of the
/// lock.
void Engine::on_watchdog(Job job) {
  jobs_.push_back(std::move(job));
  if (!working_) work();
}

void Engine::work() {
  working_ = true;
  while (!jobs_.empty()) {
    Lock lock(mutex_, std::defer_lock);
    if (!lock_soon(lock, kPatience)) {
      // `working_` stays set: nobody else tries meanwhile.
      host_->watchdog().at(SteadyClock::now() + kComeBack,
                           [self = shared_from_this()] { self->work(); });
      return;
    }
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    job(lock);
  }
  working_ = false;
}

// ---- looking in

std::chrono::nanoseconds Engine::grace() const { return host_->shutdown_grace(); }

std::vector<ReplicaStatus> Engine::replicas() { return status_of(units_); }

std::vector<ReplicaStatus> Engine::spares() { return status_of(spares_); }

std::vector<ReplicaStatus> Engine::status_of(const std::vector<std::unique_ptr<Unit>>& units) {
  const Lock lock(mutex_);
  std::vector<ReplicaStatus> result;
  for (const auto& unit : units) {
    if (!unit->wanted && !unit->life->any_alive()) continue;
    ReplicaStatus status;
    status.idx = unit->idx;
    status.state = unit->state;
    status.healthy = unit->state == ReplicaState::healthy;
    status.incarnation = unit->incarnation;
    if (!status.healthy) status.reason = unit->failure;
    for (const Rank& rank : unit->life->ranks) {
      if (rank.alive && rank.process.pid > 0) status.pids.push_back(rank.process.pid);
    }
    for (const gpu::Seat& seat : unit->seats) status.devices.push_back(seat.device.uuid);
    result.push_back(std::move(status));
  }
  return result;
}

ServiceCounters Engine::counters() {
  const Lock lock(mutex_);
  return counters_;
}

Overview Engine::overview() {
  const Lock lock(mutex_);
  const std::string_view state = state_ == State::closed     ? "closed"
                                 : state_ == State::draining ? "draining"
                                 : starting_                 ? "starting"
                                 : rolling_                  ? "changing"
                                                             : "serving";
  return {state, ledger_.open_entries(), arena_->used(), arena_->size(),
          SteadyClock::now() - born_};
}

std::vector<std::byte> Engine::description() {
  const Lock lock(mutex_);
  return description_;
}

}  // namespace forge::core
