// The way in: answers are fetched by whoever waits. Who polls, who sleeps, who wakes whom: "Who
// polls and who wakes" in ARCHITECTURE.md.
#include <cstring>

#include "core/engine.h"
#include "core/host.h"
#include "core/lock_soon.h"
#include "shm/clock.h"
#include "shm/wait_strategy.h"

namespace forge::core {
namespace {

using std::chrono::microseconds;

/// While callers polled within this time, the engine thread only looks in now and then.
constexpr microseconds kCallersAreActive{1000};
/// It goes on looking in for this long after they stopped, so that steady traffic never has to wake
/// it.
constexpr microseconds kStayAwake{10'000};
/// It polls this long after it last found something, then it parks.
constexpr microseconds kSpin{50};
/// The engine thread serves all services and waits for the lock of none longer than this.
constexpr microseconds kPatience{50};

}  // namespace

// ---- waiting

bool Engine::wait(detail::FutureState& state, std::optional<SteadyTime> until) {
  shm::Spinner spinner(launch_.options.wait);
  bool followed = false;
  while (!state.ready()) {
    Role expected = Role::free;
    // Acquire: role_set_ and role_version_ as the last holder left them.
    if (role_.compare_exchange_strong(expected, Role::caller, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
      return lead(state, until);
    }
    if (until && SteadyClock::now() >= *until) break;
    // Followers give way even when they spin: the thread that polls for them needs a core.
    if (expected == Role::engine || spinner.keep_spinning()) {
      if (launch_.options.wait == Wait::spin) ::sched_yield();
      continue;
    }
    follow(state, until);
    followed = true;
    spinner.reset();
  }
  if (followed) {  // we may have been woken to lead and have no reason to: then the next one must be
    Lock lock(mutex_);
    hand_over(lock);
  }
  return state.ready();
}

bool Engine::lead(detail::FutureState& state, std::optional<SteadyTime> until) {
  arena_->set_poller(shm::Poller::awake);
  shm::Spinner spinner(launch_.options.wait);
  std::uint32_t looks = 0;
  for (;;) {
    if (any_ready()) {
      Lock lock(mutex_);
      drain();
      ++polls_;
      if (state.ready()) {
        leave_role(lock);
        return true;
      }
      spinner.reset();
      continue;
    }
    const bool late = until && ++looks % 32 == 0 && SteadyClock::now() >= *until;
    if (late || state.ready()) {
      Lock lock(mutex_);
      leave_role(lock);
      return state.ready();
    }
    if (!spinner.keep_spinning()) {
      if (until && SteadyClock::now() >= *until) continue;  // seen at the next look
      park_as_caller(state, until);
      looks = 31;
      spinner.reset();
    }
  }
}

void Engine::leave_role(Lock& lock) {
  // Sequentially consistent: a follower announces itself and then looks at the role; we free the
  // role and then look for followers.
  role_.store(Role::free, std::memory_order_seq_cst);
  hand_over(lock);
}

void Engine::hand_over(Lock& lock) {
  // Nothing is out: nothing will come, and the next push sees to it that somebody is told.
  if (outstanding_ == 0 || role_.load(std::memory_order_relaxed) != Role::free) return;
  const bool follower = followers_.load(std::memory_order_seq_cst) != 0;
  if (follower && launch_.options.wait == Wait::block) {
    lock.unlock();
    shm::ring(succession_, shm::Scope::priv);
    return;
  }
  // Who leaves usually comes back within a microsecond, so a wake for each time would be wasted: the
  // engine thread looks in instead, and hands the role on if nobody came.
  if (attended_) return;
  attended_ = true;
  lock.unlock();
  host_->engine_thread().wake();
  if (follower) shm::ring(succession_, shm::Scope::priv);
}

void Engine::park_as_caller(detail::FutureState& state, std::optional<SteadyTime> until) {
  std::vector<shm::WaitWord> words;  // parking costs microseconds; this allocation does not show
  // Acquire pairs with ring(): if we have heard of a new poll set, we see that it is new.
  const std::uint32_t kicked = kick_.load(std::memory_order_acquire);
  refresh_role_set();
  if (!shm::has_futex_waitv() || role_set_->size() + 2 > shm::kMaxWaitWords) {
    // Cannot sleep on so many words: let the engine thread fetch, and sleep on our own.
    {
      Lock lock(mutex_);
      attended_ = true;
      leave_role(lock);
    }
    host_->engine_thread().wake();
    follow(state, until);
    Role expected = Role::free;
    // Acquire, as in wait().
    while (!role_.compare_exchange_weak(expected, Role::caller, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
      expected = Role::free;
      ::sched_yield();
    }
    return;
  }
  words.push_back({&kick_, kicked, shm::Scope::priv});
  for (PollMember& member : *role_set_) {
    auto& bell = member.channel->caller_bell();
    words.push_back({&bell, bell.load(std::memory_order_relaxed), shm::Scope::shared});
  }
  {
    const Lock lock(mutex_);
    arena_->set_poller(shm::Poller::caller);
  }
  // The handshake of doorbell.h with Worker::ring_controller.
  shm::handshake_fence();
  // state.ready(): the watchdog or a deadline may have completed it; then announce_sleep() is
  // false.
  if (!any_ready() && state.announce_sleep()) {
    words.push_back(
        {&state.word(), state.word().load(std::memory_order_relaxed), shm::Scope::priv});
    if (!state.ready()) shm::futex_wait_any(words, until);
  }
  const Lock lock(mutex_);
  arena_->set_poller(shm::Poller::awake);
}

void Engine::follow(detail::FutureState& state, std::optional<SteadyTime> until) {
  // Announced before the role is looked at: a poller that leaves either sees us, or we see the role
  // free. All four are sequentially consistent, or both might miss the other; then we would wait
  // for the engine thread's next look.
  followers_.fetch_add(1, std::memory_order_seq_cst);
  // Acquire pairs with ring(): a succession that we have heard of is one whose free role we see.
  const std::uint32_t succession = succession_.load(std::memory_order_acquire);
  if (role_.load(std::memory_order_seq_cst) != Role::free && state.announce_sleep()) {
    const std::uint32_t word = state.word().load(std::memory_order_relaxed);
    if (!state.ready()) {
      if (shm::has_futex_waitv()) {
        const shm::WaitWord words[] = {{&state.word(), word, shm::Scope::priv},
                                       {&succession_, succession, shm::Scope::priv}};
        shm::futex_wait_any(words, until);
      } else {
        // One word only: look after the role every millisecond.
        auto soon = SteadyClock::now() + std::chrono::milliseconds(1);
        if (until) soon = std::min(soon, *until);
        shm::futex_wait(state.word(), word, soon, shm::Scope::priv);
      }
    }
  }
  followers_.fetch_sub(1, std::memory_order_relaxed);  // seen late, it costs a ring for nobody
}

// ---- the engine thread

Attention Engine::attend(SteadyTime now) {
  Lock lock(mutex_, std::defer_lock);
  if (!lock_soon(lock, kPatience)) return Attention::watch;  // we come back; others are waiting
  if (shm::to_ns(now) >= next_deadline_.load(std::memory_order_relaxed) ||
      room_returned_.load(std::memory_order_relaxed))
    expire(now);
  // Relaxed: it is freed under the lock.
  Role expected = Role::free;
  if (!role_.compare_exchange_strong(expected, Role::engine, std::memory_order_relaxed))
    return attended_ ? Attention::watch : Attention::none;
  // We are awake: workers need not ring. It also makes the next parking a new one, for which they ring
  // again; each rings once for each.
  arena_->set_poller(shm::Poller::awake);
  if (drain() != 0) progress_ = now;
  if (polls_ != seen_polls_) {
    seen_polls_ = polls_;
    caller_active_ = now;
  }
  Attention attention;
  if (outstanding_ == 0) {
    attended_ = now - caller_active_ < kStayAwake;
    attention = attended_ ? Attention::watch : Attention::none;
  } else if (now - caller_active_ < kCallersAreActive) {
    attended_ = true;
    attention = Attention::watch;
  } else if (launch_.options.wait != Wait::block && now - progress_ < kSpin) {
    attended_ = true;
    attention = Attention::spin;
  } else {
    // Park: from here on the workers ring. Fence and second look: the handshake of doorbell.h.
    arena_->set_poller(host_->engine_thread().by_eventfd() ? shm::Poller::engine_eventfd
                                                           : shm::Poller::engine);
    shm::handshake_fence();
    attended_ = ready(*poll_set_);
    attention = attended_ ? Attention::spin : Attention::none;
  }
  if (attended_) arena_->set_poller(shm::Poller::awake);
  // Sequentially consistent, as in leave_role(), and what wait() acquires goes through here too.
  role_.store(Role::free, std::memory_order_seq_cst);
  const bool succession = outstanding_ != 0 && followers_.load(std::memory_order_seq_cst) != 0;
  lock.unlock();
  if (succession) shm::ring(succession_, shm::Scope::priv);
  return attention;
}

bool Engine::append_bells(std::vector<shm::WaitWord>& words) {
  Lock lock(mutex_, std::defer_lock);
  if (!lock_soon(lock, kPatience)) return false;
  for (PollMember& member : *poll_set_) {
    auto& bell = member.channel->engine_bell();
    words.push_back({&bell, bell.load(std::memory_order_relaxed), shm::Scope::shared});
  }
  return true;
}

// ---- polling

void Engine::expect_answers() {
  // E3. A holder of the role, or an engine thread that attends, will look by itself. Nobody: the
  // workers shall ring. They see this word before they see the request, because it is stored before
  // the request is published. Relaxed: a caller frees the role under the lock, and looks there what
  // is out.
  if (attended_ || role_.load(std::memory_order_relaxed) == Role::caller) return;
  arena_->set_poller(host_->engine_thread().by_eventfd() ? shm::Poller::engine_eventfd
                                                         : shm::Poller::engine);
}

void Engine::poll_set_changed() {
  auto set = std::make_shared<PollSet>();
  for (const auto* units : {&units_, &spares_}) {
    for (const auto& unit : *units) {
      for (std::uint32_t rank = 0; rank < unit->life->ranks.size(); ++rank)
        set->push_back({unit->life, rank, unit->life->ranks[rank].channel});
    }
  }
  poll_set_ = std::move(set);
  // Relaxed, also where it is read: the set itself is under the lock, and the kick brings the news.
  poll_version_.fetch_add(1, std::memory_order_relaxed);
  // Nobody polls: the set of the last who did must not keep the dead's memory mapped. Whoever finds
  // the role taken meanwhile and sleeps is woken by the engine thread. Relaxed: it is freed under
  // the lock.
  Role expected = Role::free;
  if (role_.compare_exchange_strong(expected, Role::engine, std::memory_order_relaxed)) {
    role_set_ = poll_set_;
    role_version_ = poll_version_.load(std::memory_order_relaxed);
    // Release: role_set_ and role_version_, for whoever takes it without the lock.
    role_.store(Role::free, std::memory_order_release);
  }
  // Sleepers hold the old words: wake them so that they look again.
  shm::ring(kick_, shm::Scope::priv);
  host_->engine_thread().wake();
}

void Engine::refresh_role_set() {
  if (role_version_ == poll_version_.load(std::memory_order_relaxed)) return;
  const Lock lock(mutex_);
  role_set_ = poll_set_;
  role_version_ = poll_version_.load(std::memory_order_relaxed);
}

bool Engine::any_ready() {
  refresh_role_set();
  return ready(*role_set_);
}

bool Engine::ready(const PollSet& set) {
  for (const PollMember& member : set) {
    if (member.channel->maybe_ready()) return true;
  }
  return false;
}

std::size_t Engine::drain() {
  std::size_t answers = 0;
  for (PollMember& member : *poll_set_) drain_channel(member, answers);
  return answers;
}

void Engine::drain_channel(PollMember& member, std::size_t& answers) {
  drained_at_ns_ = 0;
  shm::ResponseSlot slot;
  while (member.channel->maybe_ready() && member.channel->pop(slot)) {
    ++answers;
    on_answer(member, slot);
  }
  if (member.channel->violation() != nullptr) violated(*member.life->unit, member.rank);
}

void Engine::on_answer(PollMember& member, const shm::ResponseSlot& slot) {
  Unit& unit = *member.life->unit;
  replicas::Channel& channel = *member.channel;
  replicas::Entry* entry = ledger_.find(slot.id);
  if (entry == nullptr ||
      !ledger_.accept(*entry, unit.idx, unit.incarnation, member.rank, slot.attempt)) {
    // No worker answers what it was not asked. This answer has taken the place of another.
    ++counters_.refused;
    channel.distrust("an answer to a request that it does not have");
    return;
  }
  const bool setup = entry->slot.kind == shm::RequestKind::setup;
  if ((slot.flags & shm::kBatchFailed) != 0 && entry->batch != 0) entry->alone = true;
  if (entry->purpose == replicas::Purpose::save || entry->purpose == replicas::Purpose::restore) {
    state_answered(*entry, member, slot);
  } else if (setup) {
    setup_answered(unit, member.rank, slot);
  } else if (entry->call != nullptr && slot.kind != shm::ResponseKind::expired && is_late(*entry)) {
    // An endpoint that saw its deadline pass may have answered anything.
    fail(*entry, not_answered_in_time(*entry));
    if (slot.block != 0) channel.answers()->release(slot.block);
  } else if (auto* call = static_cast<Call*>(entry->call)) {
    const std::uint32_t rank = entry->rank == replicas::kAllRanks ? member.rank : 0;
    store(call->answer(entry->part + rank), *entry, member, slot);
  } else if (slot.block != 0) {
    channel.answers()->release(slot.block);
  }
  entry->failed = entry->failed || slot.kind != shm::ResponseKind::value;
  if (entry->waiting != 0) return;
  replicas::unlink(*entry);
  load_changed(unit);
  --outstanding_;
  if (unit.life->draining && unit.in_flight.empty()) send_stop(unit);
  if (std::exchange(entry->batch, 0) != 0 && entry->alone && retry_alone(*entry)) {
    pump(unit);
    return;
  }
  if (stateful_ && entry->slot.session != 0) session_answered(unit, *entry, slot);
  auto* call = static_cast<Call*>(std::exchange(entry->call, nullptr));
  if (call != nullptr) {
    count(unit, !entry->failed);
    if (entry->failed) count_failure(entry->slot.endpoint, failure_of(*entry, *call));
    if (entry->called_ns != 0) {
      time_ends(unit, *entry, slot);
      if (recorder_) trace_answer(*entry, *call, slot);
    }
  }
  close(*entry);
  if (setup) {
    setup_finished(unit);
    return;
  }
  unit.life->answered = true;
  if (call != nullptr && call->settle()) call->complete();
  if (!unit.queue.empty()) pump(unit);
  if (!unit.wanted) leave(unit);
}

/// Has the deadline passed, by the clock of this drain?
bool Engine::is_late(const replicas::Entry& entry) {
  if (entry.slot.deadline_ns == 0) return false;
  if (drained_at_ns_ == 0) drained_at_ns_ = shm::now_ns();
  return drained_at_ns_ > entry.slot.deadline_ns;
}

/// Its batch failed: it is tried by itself. False: it has been tried often enough.
bool Engine::retry_alone(replicas::Entry& entry) {
  auto* const call = static_cast<Call*>(entry.call);
  if (call == nullptr || ledger_.lost(entry, true) != replicas::Verdict::retry) return false;
  for (std::uint32_t rank = 0; rank < procs_; ++rank) call->answer(entry.part + rank).clear();
  ++counters_.retries;
  entry.replica = replicas::kAnyReplica;
  go_on(entry);
  return true;
}

void Engine::store(Answer& answer, replicas::Entry& entry, PollMember& member,
                   const shm::ResponseSlot& slot) {
  const std::byte* head = slot.answer;
  if (slot.block != 0) {
    const bool copy = (slot.flags & shm::kCopyOut) != 0;
    answer.source.block = std::make_shared<replicas::AnswerBlock>(
        member.channel->answers(), slot.block, slot.block_size, copy);
    head = answer.source.block->bytes().data();
  }
  answer.head.assign(head, head + slot.head_size);
  answer.source.head_size = slot.head_size;
  if (slot.kind == shm::ResponseKind::expired) {
    answer.error = not_started_in_time(entry);
  } else if (slot.kind == shm::ResponseKind::error) {
    const std::string rank = procs_ == 1 ? "" : ", rank " + std::to_string(member.rank);
    answer.error = decode_error(answer, where(entry) + rank);
    answer.let_down = (slot.flags & shm::kLetDown) != 0;
  }
  if (answer.error) {
    answer.source.block.reset();
  } else if (answer.source.block) {
    answer.source.block->lend(slot.head_size);
  }
}

}  // namespace forge::core
