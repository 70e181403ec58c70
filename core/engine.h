// The engine of one service or mesh: takes calls, routes them, fetches answers, survives deaths.
//
// Reading order: engine.cc (a call on its way out), room.cc (its place in the arena), dispatch.cc (where
// it goes and when), turns.cc (sessions), fanout.cc, poll.cc
// (its answer on its way in, and who waits how), lifecycle.cc (start), shutdown.cc, recovery.cc
// (deaths, replay), placement.cc (devices), rolling.cc (replacement), scaling.cc (more and fewer),
// measure.cc (metrics), tracing.cc (recordings). What is known of a replica is in unit.h.
//
// Thread safety: one lock, mutex_. Fields marked [lock] need it; [role] belongs to whoever holds
// the poller's role; [watchdog] to that thread; the rest is constant or atomic. The watchdog thread
// enters through on_watchdog().
//
// Invariants
//   E1  Every entry in the ledger is in exactly one list: waiting_, a forming batch, a session's held_,
//       a unit's queue or its in_flight. One that spreads is never in flight.
//   E2  A call is completed once: when its last share settles. An entry whose share has been settled
//       early (deadline, shutdown) has call == nullptr.
//   E3  While entries are in flight, somebody will look at their answers: a caller holds the role, or
//       the engine thread attends, or the poller word tells the workers to ring.
//   E4  A descriptor is pushed only to replicas that are healthy, or (setup) starting; it enters all
//       ranks' rings or none.
#pragma once

#include <forge/controller.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/arena.h"
#include "core/arguments.h"
#include "core/autoscaler.h"
#include "core/call.h"
#include "core/meter.h"
#include "core/sessions.h"
#include "core/suspects.h"
#include "core/trace_recorder.h"
#include "core/unheard.h"
#include "core/unit.h"
#include "replicas/channel.h"
#include "replicas/ledger.h"
#include "replicas/manifest.h"
#include "replicas/recording.h"
#include "replicas/spawner.h"
#include "replicas/supervisor.h"

namespace forge::core {

class Host;
using SteadyClock = std::chrono::steady_clock;
using SteadyTime = SteadyClock::time_point;

/// What an engine serves.
struct Launch {
  std::string name;
  std::string plugin;  ///< path; empty: linked-in actors
  std::string actor;   ///< empty: only describe the plugin
  std::string worker_path;
  Options options;
  bool mesh = false;
  /// What it offers, with Options::endpoints in force; null when describing.
  std::shared_ptr<const replicas::ActorManifest> manifest;
  std::vector<std::byte> arguments;  ///< of the constructor: head and out-of-band bytes
  std::size_t arguments_head = 0;
};

/// Why something is not done; null if it is. Cheaper to hand around than a Status.
using Refusal = std::shared_ptr<const Error>;

/// What the engine thread should do next for this engine.
enum class Attention { none, watch, spin };

/// A change of the number of replicas.
struct ScaleRecord {
  SteadyTime at;
  std::size_t from = 0;
  std::size_t to = 0;
  std::string reason;
};

/// How a service stands, for those who look in.
struct Overview {
  std::string_view state;      ///< "starting", "serving", "changing", "draining", "closed"
  std::size_t open_calls = 0;  ///< shares of calls that are not answered yet
  std::size_t arena_used = 0;  ///< bytes
  std::size_t arena_size = 0;
  std::chrono::nanoseconds age{};
};

class Engine final : public detail::Driver,
                     public detail::Origin,
                     public std::enable_shared_from_this<Engine> {
 public:
  static Result<std::shared_ptr<Engine>> create(std::shared_ptr<Host> host, Launch launch);
  ~Engine();

  /// Starts all replicas and waits until every one is up. On failure everything is down again.
  Status start();
  /// Replaces all replicas, one at a time (rolling.cc). Throws.
  void restart_replicas();
  /// So many replicas from now on; waits for those that come and those that leave. Throws.
  void scale(int count);
  /// The same as restart_replicas(), with the actor as another plugin has it.
  void update(const std::string& plugin, const replicas::ActorManifest& actor);
  /// Refuses new calls; with grace, lets the old ones finish; then stops. Idempotent.
  void shutdown(std::chrono::nanoseconds grace);

  // ---- calls (engine.cc)
  detail::EndpointRef bind(std::string_view endpoint, const std::string& signature,
                           bool wants_mesh);
  /// `session`: its id, which the arguments begin with; empty: none.
  detail::AnswerState* submit(const detail::EndpointRef& endpoint, detail::CallMode mode,
                              std::string_view session, detail::Writer& arguments);
  /// Its id.
  std::string start_session(bool strict);
  void terminate_session(std::string_view id);
  Sessions::Map session_map();
  Tensor allocate(DType dtype, const std::vector<std::int64_t>& shape,
                  std::optional<std::chrono::nanoseconds> timeout);
  /// A row of the endpoint's next batch.
  Tensor allocate_row(std::uint16_t endpoint, DType dtype, const std::vector<std::int64_t>& shape,
                      std::optional<std::chrono::nanoseconds> timeout);
  const void* home() const { return arena_.get(); }
  void recycle(Call& call);
  /// Any thread, under any lock.
  void unheard(std::uint16_t endpoint, const Error& error) noexcept override;
  void cancel(shm::RequestId request);

  // ---- waiting (poll.cc)
  bool wait(detail::FutureState& state, std::optional<SteadyTime> until) override;
  Attention attend(SteadyTime now);
  /// Words the engine thread sleeps on; false if it cannot have them now.
  bool append_bells(std::vector<shm::WaitWord>& words);
  std::optional<SteadyTime> next_deadline();

  // ---- looking in
  const Launch& launch() const { return launch_; }
  std::chrono::nanoseconds grace() const;  ///< what shutdown() should be given normally
  std::vector<ReplicaStatus> replicas();
  std::vector<ReplicaStatus> spares();
  std::vector<std::byte> description();  ///< the encoded manifest, after a start without an actor
  ServiceCounters counters();
  Overview overview();
  ServiceMetrics metrics();
  MetricsSummary metrics_summary();
  /// From now on requests are recorded there when they are over; null: nowhere.
  void trace_to(std::shared_ptr<TraceRecorder> recorder);

 private:
  using Lock = std::unique_lock<std::mutex>;

  enum class State { serving, draining, closed };
  enum class Role : std::uint32_t { free, caller, engine };

  /// A batch of one endpoint that is being collected.
  struct Forming {
    replicas::EntryList entries;
    SteadyTime first{};   ///< when its first call came
    bool waited = false;  ///< it holds calls that have left before: they do not wait again
  };

  /// Rows of the next batch of an endpoint, handed out one by one.
  struct Slab {
    Tensor memory;         // [batch_size, …]; empty: none has been begun
    std::size_t next = 0;  // row
    bool used = false;     // ever: batches are put into the order of their rows
  };

  /// Somebody who waits for room in the arena, until it is given a block.
  using RoomState = detail::ValueState<std::uint64_t>;
  struct RoomWaiter {
    std::size_t size = 0;
    RoomState* state = nullptr;
  };

  Engine(std::shared_ptr<Host> host, Launch launch, std::shared_ptr<Arena> arena);
  std::string where(const replicas::Entry& entry) const;
  std::string endpoint_name(std::uint16_t index) const;

  // engine.cc, dispatch.cc, turns.cc [lock]
  Payload& take_payload(std::uint64_t block, std::uint64_t size, std::size_t head);
  Refusal admit(const detail::EndpointRef& endpoint, detail::CallMode mode,
                std::string_view session);
  Refusal has_no_time(const detail::EndpointRef& endpoint, std::chrono::nanoseconds timeout) const;
  /// `until`: its deadline; max: it has none.
  Refusal send_all(const detail::EndpointRef& endpoint, detail::CallMode mode, Payload& payload,
                   SteadyTime until, Call*& call);
  Unit* place_session(std::uint64_t session, Refusal& refusal);
  bool hold(replicas::Entry& entry, bool fresh);
  std::size_t behind(const replicas::Entry& entry) const;
  void release_next(std::uint64_t session);
  bool keeps_order(const replicas::Entry& entry) const;
  bool shares_scattered(const replicas::Entry& entry) const;
  void hold_scattered(Unit& unit);
  void release_scattered();
  static std::string new_strict_ids();
  std::uint64_t open_session(std::string_view id, bool strict);

  // room.cc [lock]
  Refusal place(Lock& lock, detail::Writer& arguments, SteadyTime until, Payload*& payload);
  Refusal take_room(Lock& lock, std::size_t size, const char* what, SteadyTime until,
                    std::uint64_t& block);
  Refusal wait_for_room(Lock& lock, std::size_t size, const char* what, SteadyTime until,
                        std::uint64_t& block);
  Refusal no_room(ErrorCode code, const char* what, std::size_t size, const char* how);
  Refusal ended() const;
  void serve_room();

  // fanout.cc [lock]
  Refusal check_awake(const replicas::Entry& entry) const;
  void spread(replicas::Entry& whole, bool fresh);
  replicas::Entry& open_share(const replicas::Entry& whole, std::uint32_t part);
  Refusal route_share(replicas::Entry& share);

  // dispatch.cc [lock]
  /// `fresh`: it has not waited yet, so that the queue limit binds it.
  Refusal route_one(replicas::Entry& entry, bool fresh);
  Unit* choose(const replicas::Entry& entry, Refusal& refusal);
  /// `behind`: calls that wait elsewhere and will come to this replica.
  Refusal check_room(const replicas::Entry& entry, Unit& unit, std::size_t behind = 0);
  Refusal check_hope() const;
  void go_on(replicas::Entry& entry);
  Refusal check_room_anywhere(const replicas::Entry& entry);
  replicas::Entry& open(const detail::EndpointRef& endpoint, Payload& payload, Call* call,
                        std::uint32_t part, SteadyTime until);
  void enqueue(replicas::Entry& entry, Unit& unit);
  void queue_up(replicas::Entry& entry, Unit& unit);
  bool can_send(const replicas::Entry& entry, Unit& unit, std::size_t count) const;
  bool wants_solitude(const replicas::Entry& entry, const Unit& unit) const;
  void send(replicas::Entry& entry, Unit& unit);
  void stage(replicas::Entry& entry, Unit& unit);
  void commit(std::uint32_t rank, Unit& unit);
  void pump(Unit& unit);
  bool batches(const replicas::Entry& entry) const;
  void collect(replicas::Entry& entry);
  void flush(std::size_t endpoint);
  void put_in_order(std::size_t endpoint);
  void flush_due(SteadyTime now);
  void evict_sessions(SteadyTime now);
  void arm(SteadyTime at);
  void dispatch_waiting();
  void close(replicas::Entry& entry);
  void discard(replicas::Entry& entry, Call* call);
  void release(Payload& payload);
  /// Settles the entry's share with an error; the entry itself stays.
  void fail(replicas::Entry& entry, Refusal why);
  void give_up(replicas::Entry& entry, Refusal why);
  /// fail(), and the entry leaves its list and is closed.
  void drop(replicas::Entry& entry, Refusal why);
  detail::AnswerState* failed(std::uint16_t endpoint, Refusal refusal);
  void was_cancelled(shm::RequestId request);
  void make_cancellable(replicas::Entry& entry, std::uint64_t source);
  void set_deadline(replicas::Entry& entry, SteadyTime at);
  Refusal not_started_in_time(const replicas::Entry& entry) const;
  Refusal not_answered_in_time(const replicas::Entry& entry) const;
  void expire(SteadyTime now);
  bool anything_can_come_back() const;

  // snapshots.cc [lock]
  void find_state_endpoints();
  replicas::Entry& open_own(replicas::Purpose purpose, std::uint16_t endpoint, Payload& payload,
                            std::uint64_t session);
  Payload* place_own(detail::Writer& arguments);
  bool is_away(const replicas::Entry& entry) const;
  bool is_restoring(std::uint64_t session) const;
  static bool brings_back(const replicas::Entry& entry);
  Refusal bring_back(replicas::Entry& entry);
  void session_answered(Unit& unit, const replicas::Entry& entry, const shm::ResponseSlot& slot);
  void state_answered(replicas::Entry& entry, PollMember& member, const shm::ResponseSlot& slot);
  void saving_ended(SavedSession& saved, bool success);
  void restoring_goes_on(std::uint64_t session, SavedSession& saved, bool success);
  void remember(Unit& unit, const replicas::Entry& entry, SavedSession& saved);
  void request_snapshot(Unit& unit, std::uint64_t session, SavedSession& saved);
  void sessions_lost(Unit& unit);
  void session_lost(std::uint64_t session, bool blameless);
  void drop_own(std::uint64_t session);
  void forget_calls(SavedSession& saved);
  void forget_saved(std::uint64_t session);

  // measure.cc [lock]
  void begin_pulse();
  void pulse(SteadyTime now);
  std::uint64_t roll(SteadyTime now);
  ServiceMetrics metrics_now();
  void count(Unit& unit, bool success);
  void count_failure(std::uint16_t endpoint, ErrorCode code);
  ErrorCode failure_of(const replicas::Entry& entry, Call& call) const;
  void time_begins(replicas::Entry& entry);
  void time_ends(Unit& unit, const replicas::Entry& entry, const shm::ResponseSlot& slot);
  std::size_t unplaced() const;  ///< calls that no replica has been chosen for
  static std::vector<DeviceMetrics> devices_of(const Unit& unit);
  std::size_t active(const Unit& unit) const;
  std::size_t queued(const Unit& unit) const;
  double utilization(const Unit& unit) const;
  void load_changed(Unit& unit);
  void refresh_load();
  void update_healthy();

  // watch.cc [lock], but for look_at(), which the watchdog thread enters without it
  void watch_executions(std::chrono::nanoseconds elapsed);
  bool overran(Unit& unit, replicas::Entry& entry, std::chrono::nanoseconds elapsed);
  void watch_silence(std::chrono::nanoseconds elapsed);
  void look_at(const LifePtr& life, std::uint32_t rank);
  void seen_stopped(const LifePtr& life, std::uint32_t rank, bool stopped);
  void watch_lives(std::chrono::nanoseconds elapsed);
  void not_up_in_time(Unit& unit);
  static bool is_leaving(const Life& life);
  void not_gone_in_time(Unit& unit);

  // tracing.cc [lock], if there is a recorder
  void trace_answer(const replicas::Entry& entry, Call& call, const shm::ResponseSlot& slot);
  void trace(const replicas::Entry& entry, ErrorCode outcome, const shm::Stamp& stamp,
             std::int64_t over_ns);

  // rolling.cc [lock]
  /// One change of the replicas at a time. Throws Stopped.
  class Change {
   public:
    Change(Engine& of, Lock& lock);
    ~Change();
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    Engine& engine_;
  };
  void roll(const std::function<VersionPtr()>& target);
  void roll_back(Lock& lock, const VersionPtr& from);
  VersionPtr version_of(const std::string& plugin, const replicas::ActorManifest& actor);
  void replace(Lock& lock, Unit& unit);
  void drain_unit(Unit& unit);
  void move_queue(Unit& unit, bool sessions);
  void send_stop(Unit& unit);

  // scaling.cc [lock], but for autoscale(), which the watchdog thread enters without it
  std::size_t wanted() const;
  void scale_to(std::size_t count, const std::string& reason);
  void autoscale();
  void autoscale_later();
  void ask_policy();  // without it, too
  void autoscale_by(const std::optional<ScalingDecision>& wish);
  ScalingInput scaling_input(const ServiceMetrics& metrics) const;
  void want(Unit& unit);
  void dismiss(Unit& unit);
  void leave(Unit& unit);
  void park(Unit& unit);
  void wake_replica();
  static bool has_shares(const Unit& unit);

  // poll.cc
  bool any_ready();  // [role]
  void refresh_role_set();
  bool lead(detail::FutureState& state, std::optional<SteadyTime> until);
  void leave_role(Lock& lock);
  void hand_over(Lock& lock);
  static bool ready(const PollSet& set);
  void park_as_caller(detail::FutureState& state, std::optional<SteadyTime> until);
  void follow(detail::FutureState& state, std::optional<SteadyTime> until);
  std::size_t drain();                                     // [lock]
  void drain_channel(PollMember& member, std::size_t& n);  // [lock]
  void on_answer(PollMember& member, const shm::ResponseSlot& slot);
  bool is_late(const replicas::Entry& entry);
  bool retry_alone(replicas::Entry& entry);
  void store(Answer& answer, replicas::Entry& entry, PollMember& member,
             const shm::ResponseSlot& slot);
  void expect_answers();    // [lock] E3, before a push
  void poll_set_changed();  // [lock]

  // lifecycle.cc, recovery.cc [lock], but for begin(), spawn(), prepare(), on_watchdog() and work(), which
  // the watchdog thread enters without it
  using Job = std::function<void(Lock&)>;
  void on_watchdog(Job job);
  void work();
  std::vector<Unit*> everyone() const;
  std::vector<ReplicaStatus> status_of(const std::vector<std::unique_ptr<Unit>>& units);
  std::string name_of(const Unit& unit) const;  ///< for messages
  /// An event of one replica or spare, or (null) of all of the service.
  void tell(LogLevel level, const char* kind, const Unit* unit, const std::string& text) const;
  std::string rank_name(const Unit& unit, std::uint32_t rank) const;
  Status make_channels(const Unit& unit, std::uint64_t incarnation, Channels& out) const;
  Status make_setup(Version& version);
  void plan(Unit& unit, SteadyTime at);
  void begin(const LifePtr& life);
  bool is_called_off(const Life& life) const;
  void begin_with(const LifePtr& life, const Status& status, const Channels& channels);
  void equip(Life& life, const Channels& channels);
  bool take_over(Unit& unit);
  /// What has become of starting one worker.
  struct Started {
    Result<replicas::Process> process;
    std::uint64_t output = 0;  // its pipes
  };
  void spawn(const LifePtr& life);
  Started spawn_rank(const LifePtr& life, std::uint32_t rank, const std::string& master_port);
  void spawned(const LifePtr& life, const std::vector<Started>& started);
  void prepare(const LifePtr& life);
  void setup_failed(Unit& unit, const Status& status);
  void rank_failed_setup(Unit& unit, const Status& status, bool let_down);
  void cannot_start(Unit& unit, const Status& status);
  void send_setup(Unit& unit);
  void setup_answered(Unit& unit, std::uint32_t rank, const shm::ResponseSlot& slot);
  void setup_finished(Unit& unit);
  void becomes_healthy(Unit& unit);
  void on_exit(const LifePtr& life, std::uint32_t rank, const replicas::ExitInfo& exit);
  void on_stuck(const LifePtr& life, std::uint32_t rank);
  void rank_gone(Unit& unit, std::uint32_t rank);
  std::string last_moments(const Unit& unit, std::uint32_t rank) const;
  void violated(Unit& unit, std::uint32_t rank);  ///< a worker wrote what no worker writes
  void retire(Unit& unit);
  void fence(Unit& unit, FenceReason reason);  ///< kills what still lives of it
  void bury(Unit& unit);                       ///< all ranks are reaped: drain, sort, replace
  bool was_started(const Unit& unit, const replicas::Entry& entry) const;
  /// True if a request that is not run again killed it.
  bool sort_out(Unit& unit);
  replicas::Blame blame(const Unit& unit, const replicas::Entry& entry, std::size_t started) const;
  void put_back(Unit& unit, replicas::Entry& entry);
  replicas::Recording record(const Unit& unit, const replicas::Entry& entry,
                             const std::string& reason) const;
  Refusal poison_error(const Unit& unit, const replicas::Entry& entry);
  Refusal refuse_suspect(const detail::EndpointRef& endpoint, const Payload& payload);
  std::uint64_t fingerprint(std::uint16_t endpoint, const Payload& payload) const;
  std::string accuse(const Unit& unit, const replicas::Entry& entry);
  void schedule_restart(Unit& unit, const replicas::Death& death);
  void quarantine(Unit& unit, SteadyTime until);

  // placement.cc [lock]
  Status take_first_seats();
  Status take_seats(const std::vector<Unit*>& units);
  Status settle_seats(Unit& unit);
  void swap_seats(Unit& unit, Unit& spare);
  void leave_seats(Unit& unit);
  void seats_started(const Unit& unit);
  bool lost_device(const Rank& rank, const replicas::ExitInfo& exit) const;
  void blame_device(const Unit& unit);

  // recovery.cc, shutdown.cc [lock]
  void mourn_mesh(Unit& unit);
  void fail_everything(const Refusal& why);
  /// While draining: will any open call still be answered?
  bool can_drain() const;
  void stop_workers(bool at_once);

  const std::shared_ptr<Host> host_;
  const Launch launch_;
  const std::shared_ptr<Arena> arena_;
  const replicas::ActorManifest* actor_ = nullptr;
  const std::uint32_t procs_;

  std::mutex mutex_;
  std::condition_variable changed_;  // a replica's state, the last open entry, the last process
  State state_ = State::serving;     // [lock]
  bool rolling_ = false;             // [lock] replicas are being replaced, or become more or fewer
  bool waking_ = false;              // [lock] a request is about to call a replica back
  bool starting_ = true;             // [lock] start() has not returned: a death is its error
  Status start_error_;               // [lock]
  replicas::Ledger ledger_;          // [lock]
  CallPool calls_;
  std::deque<RoomWaiter> room_;             // [lock] who came first is in front
  std::atomic<bool> room_returned_{false};  // somebody waits for room, and a tensor was dropped
  std::vector<std::unique_ptr<Payload>> payloads_;  // [lock] all of them
  std::vector<Payload*> free_payloads_;             // [lock]
  std::vector<std::unique_ptr<Unit>> units_;        // as many as there may be; contents [lock]
  std::vector<std::unique_ptr<Unit>> spares_;       // likewise
  std::vector<forge::Replica> healthy_;             // [lock] what routers see
  std::vector<Unit*> stale_;                        // [lock] see Unit::stale
  std::vector<std::shared_ptr<Router>> routers_;    // [lock] by endpoint
  Sessions sessions_;                               // [lock]
  bool overlaps_ = false;     // several calls are started at once in one of this service's workers
  bool interleaves_ = false;  // calls do, in this service's workers: a session's must not
  /// Of sessions with a call out, the calls behind it; where calls do not interleave, only while a
  /// session's state is being brought back, or a share of its has stayed with a replica that it left.
  std::unordered_map<std::uint64_t, replicas::EntryList> held_;  // [lock]
  std::vector<std::uint64_t> scattered_;                         // [lock] see release_scattered()
  const std::string strict_ids_ = new_strict_ids();  // what those of strict sessions begin with
  SteadyTime next_eviction_ = SteadyTime::max();     // [lock]
  bool stateful_ = false;                            // the actor has save() and restore()
  std::uint16_t save_ = 0, restore_ = 0;             // their endpoints
  std::unordered_map<std::uint64_t, SavedSession> saved_;  // [lock] by session
  std::size_t logged_bytes_ = 0;                           // [lock] of their calls, in the arena
  std::vector<Forming> forming_;                           // [lock] by endpoint
  std::vector<Slab> slabs_;                                // [lock] by endpoint
  std::uint64_t last_batch_ = 0;                           // [lock]
  replicas::EntryList waiting_;                            // [lock] for any replica to come up
  std::size_t outstanding_ = 0;                            // [lock] entries in flight
  std::size_t processes_ = 0;              // [lock] started and not reaped, or being started
  ServiceCounters counters_;               // [lock]
  std::uint32_t next_rank_ = 0;            // [lock] choose()
  VersionPtr version_;                     // [lock] what the service runs
  VersionPtr next_version_;                // [lock] what it is being updated to; null: nothing
  std::optional<Autoscaler> autoscaler_;   // the watchdog thread's; none: users say how many
  std::deque<ScaleRecord> scale_records_;  // [lock] the last ones
  std::uint64_t scale_events_ = 0;         // [lock] all
  std::vector<bool> bound_;                // [lock] by endpoint: somebody may call it
  std::vector<std::byte> description_;     // [lock]

  Suspects suspects_;  // [lock]

  Timeline timeline_;                              // [lock]
  std::vector<EndpointMetrics> endpoint_metrics_;  // [lock] by endpoint; without failures
  /// [lock] Calls that ended with an error, by endpoint and code.
  std::vector<std::array<std::uint64_t, kErrorCodes>> failures_;
  UnheardErrors unheard_;
  SteadyTime born_ = SteadyClock::now();       // [lock] when it began to serve
  std::chrono::nanoseconds pulse_period_{};    // constant
  SteadyTime next_pulse_ = SteadyTime::max();  // [lock] never, while nothing happens
  std::uint32_t stride_ = 1;                   // [lock] how often a call is timed
  std::uint32_t until_timed_ = 1;              // [lock]
  std::int64_t drained_at_ns_ = 0;  // [lock] the clock, if this drain of a channel has looked at it
  std::shared_ptr<TraceRecorder> recorder_;  // [lock] null: nobody wants a trace
  std::uint32_t traced_as_ = 0;              // [lock] our number there

  std::deque<Job> jobs_;  // [watchdog] that need the lock
  bool working_ = false;  // [watchdog] they are being done, or the one in front will be tried again

  using Deadline = std::pair<std::int64_t, std::uint64_t>;  // time, request id packed
  std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>>
      deadlines_;                                       // [lock] lazily purged
  std::atomic<std::int64_t> next_deadline_{INT64_MAX};  // or the next batch that is due

  std::atomic<Role> role_{Role::free};
  bool attended_ = false;         // [lock] the engine thread has promised to look again soon
  std::uint64_t polls_ = 0;       // [lock] by callers
  std::uint64_t seen_polls_ = 0;  // [lock] by the engine thread
  SteadyTime progress_{};         // [lock] when the engine thread last found something
  SteadyTime caller_active_{};    // [lock]

  std::shared_ptr<PollSet> poll_set_ = std::make_shared<PollSet>();  // [lock]
  std::atomic<std::uint64_t> poll_version_{1};
  std::shared_ptr<PollSet> role_set_;  // [role]
  std::uint64_t role_version_ = 0;     // [role]

  shm::Word kick_{0};        // changes when the parked caller must look at a new poll set
  shm::Word succession_{0};  // changes when a poller leaves and somebody must follow
  std::atomic<std::uint32_t> followers_{0};
};

}  // namespace forge::core
