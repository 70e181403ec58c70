// State of sessions: an actor with save() and restore() goes on elsewhere as if nothing had happened.
// "The life of a session's state" in ARCHITECTURE.md.
#include <algorithm>

#include "core/engine.h"
#include "core/host.h"

namespace forge::core {
namespace {

using replicas::Purpose;

/// A session is saved after this many calls, or after each one while the calls that wait for that take
/// more than this part of the arena.
constexpr std::size_t kCallsPerSnapshot = 32;
constexpr std::size_t kArenaShare = 4;
/// Where saving fails, no more calls than this are remembered.
constexpr std::size_t kMostCalls = 4 * kCallsPerSnapshot;

/// Why it cannot be read; empty if it could.
std::string read_snapshot(Answer& answer, Snapshot& snapshot) {
  try {
    std::span<const std::byte> blobs;
    if (answer.source.block)
      blobs = detail::blobs_of(answer.source.block->bytes(), answer.head.size());
    detail::Reader reader(answer.head, blobs, &answer.source);
    if (reader.array() != 2) reader.fail("a snapshot");
    snapshot.head = reader.unsigned_integer();
    const auto bytes = reader.bytes();
    snapshot.bytes.assign(bytes.begin(), bytes.end());
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

std::size_t bytes_of(const std::vector<Tensor>& residents) {
  std::size_t sum = 0;
  for (const Tensor& tensor : residents) sum += tensor.byte_count();
  return sum;
}

}  // namespace

void Engine::find_state_endpoints() {
  const auto save = actor_->index_of(detail::kSaveEndpoint);
  const auto restore = actor_->index_of(detail::kRestoreEndpoint);
  stateful_ = save && restore && !launch_.mesh;
  if (!stateful_) return;
  save_ = static_cast<std::uint16_t>(*save);
  restore_ = static_cast<std::uint16_t>(*restore);
  bound_[save_] = bound_[restore_] = true;  // what one replica saves, any other must understand
  sessions_.on_forget([this](std::uint64_t session) { forget_saved(session); });
}

/// Null: the arena is full.
Payload* Engine::place_own(detail::Writer& arguments) {
  const auto block = arena_->allocate(arguments.block_size());
  if (!block) return nullptr;
  arguments.write_to(arena_->at(*block));
  return &take_payload(*block, arguments.block_size(), arguments.head().size());
}

replicas::Entry& Engine::open_own(Purpose purpose, std::uint16_t endpoint, Payload& payload,
                                  std::uint64_t session) {
  replicas::Entry& entry = ledger_.open(0);
  entry.purpose = purpose;
  entry.slot.block = payload.block;
  entry.slot.block_size = payload.size;
  entry.slot.head_size = payload.head;
  entry.slot.endpoint = endpoint;
  entry.slot.session = session;
  entry.payload = &payload;
  ++payload.users;
  sessions_.begin_call(session);
  return entry;
}

// ---- saving

/// A request of a stateful actor's session is over.
void Engine::session_answered(Unit& unit, const replicas::Entry& entry,
                              const shm::ResponseSlot& slot) {
  const std::uint64_t session = entry.slot.session;
  const SessionState& state = sessions_.at(session);
  if (state.replica != unit.idx) return;  // it has moved on, and this did not happen there
  if (entry.purpose == Purpose::call) {
    // What asks for another replica by failing is not to be done to that one too.
    const bool gone = entry.failed && (entry.slot.flags & shm::kRestartOnError) != 0;
    if (slot.kind == shm::ResponseKind::expired || gone || state.ended) return;
    remember(unit, entry, saved_[session]);
  } else if (const auto found = saved_.find(session); found == saved_.end()) {
    return;
  } else if (entry.purpose == Purpose::save) {
    saving_ended(found->second, !entry.failed);
  } else {
    restoring_goes_on(session, found->second, entry.purpose == Purpose::replay || !entry.failed);
  }
}

void Engine::saving_ended(SavedSession& saved, bool success) {
  saved.saving = false;
  std::vector<Snapshot> taken = std::exchange(saved.incoming, {});
  if (!success && saved.calls.size() < kMostCalls) return;
  // It stands for all calls that have been answered; without it they have become too many.
  forget_calls(saved);
  if (!success) taken.clear();
  saved.state = std::move(taken);
  saved.incomplete = !success;
}

void Engine::restoring_goes_on(std::uint64_t session, SavedSession& saved, bool success) {
  if (!success) {
    drop_own(session);
    forget_saved(session);
    sessions_.at(session).lost = true;
    return;
  }
  const auto behind = held_.find(session);
  if (behind != held_.end() && !behind->second.empty() && brings_back(behind->second.front()))
    return;
  saved.restoring = false;
  saved.attempts = 0;
  ++counters_.restored;
}

void Engine::remember(Unit& unit, const replicas::Entry& entry, SavedSession& saved) {
  auto& payload = *static_cast<Payload*>(entry.payload);
  if (!saved.incomplete) {
    ++payload.users;
    logged_bytes_ += payload.size + bytes_of(payload.residents);
    saved.calls.push_back({&payload, entry.slot.endpoint});
  }
  const bool crowded = logged_bytes_ > arena_->size() / kArenaShare;
  if ((++saved.since < kCallsPerSnapshot && !crowded) || saved.saving) return;
  if (unit.state != ReplicaState::healthy || state_ != State::serving) return;
  request_snapshot(unit, entry.slot.session, saved);
}

void Engine::request_snapshot(Unit& unit, std::uint64_t session, SavedSession& saved) {
  detail::Writer arguments;
  arguments.reset();
  arguments.string(sessions_.at(session).id);
  arguments.array(0);
  Payload* const payload = place_own(arguments);
  if (payload == nullptr) return;  // asked for again after the next call
  saved.since = 0;
  saved.saving = true;
  saved.incoming.assign(procs_, {});
  replicas::Entry& entry = open_own(Purpose::save, save_, *payload, session);
  if (!hold(entry, true)) enqueue(entry, unit);
}

/// One rank's answer to a request to save, or to restore.
void Engine::state_answered(replicas::Entry& entry, PollMember& member,
                            const shm::ResponseSlot& slot) {
  Answer answer;
  store(answer, entry, member, slot);
  const bool saves = entry.purpose == Purpose::save;
  std::string why = answer.error ? answer.error->what() : "";
  const auto found = saved_.find(entry.slot.session);
  if (why.empty() && saves && found != saved_.end() && member.rank < found->second.incoming.size())
    why = read_snapshot(answer, found->second.incoming[member.rank]);
  if (why.empty()) return;
  entry.failed = true;
  host_->log(LogLevel::error, "session '" + sessions_.at(entry.slot.session).id + "' cannot be " +
                                  (saves ? "saved" : "brought back; its next call hears so") +
                                  ": " + why);
}

// ---- bringing back

bool Engine::is_away(const replicas::Entry& entry) const {
  if (!stateful_ || entry.slot.session == 0 || entry.home != replicas::kAnyReplica ||
      entry.purpose != Purpose::call)
    return false;
  const auto found = saved_.find(entry.slot.session);
  return found != saved_.end() && found->second.away;
}

bool Engine::is_restoring(std::uint64_t session) const {
  if (!stateful_) return false;
  const auto found = saved_.find(session);
  return found != saved_.end() && found->second.restoring;
}

bool Engine::brings_back(const replicas::Entry& entry) {
  return entry.purpose == Purpose::restore || entry.purpose == Purpose::replay;
}

/// The session has a new replica: what it had on the old one goes there ahead of its call.
Refusal Engine::bring_back(replicas::Entry& entry) {
  const std::uint64_t session = entry.slot.session;
  SavedSession& saved = saved_.at(session);
  Payload* state = nullptr;
  if (!saved.state.empty()) {
    detail::Writer arguments;
    arguments.reset();
    arguments.string(sessions_.at(session).id);
    arguments.array(1);
    arguments.array(saved.state.size());
    for (const Snapshot& snapshot : saved.state) {
      arguments.array(2);
      arguments.unsigned_integer(snapshot.head);
      arguments.bytes(snapshot.bytes);
    }
    state = place_own(arguments);
    if (state == nullptr) {
      sessions_.place(session, kNoReplica);  // the next call tries again
      return make_error(
          {ErrorCode::backpressure,
           "the arena of service '" + launch_.name + "' is too full to bring session '" +
               sessions_.at(session).id + "' back (" + std::to_string(arguments.block_size()) +
               " bytes wanted); wait for answers, drop tensors or raise arena_bytes"});
    }
  }
  saved.away = false;
  saved.restoring = true;
  replicas::EntryList& behind = held_[session];
  entry.leads = false;
  replicas::prepend(behind, entry);
  for (auto call = saved.calls.rbegin(); call != saved.calls.rend(); ++call)
    replicas::prepend(behind, open_own(Purpose::replay, call->endpoint, *call->payload, session));
  if (state != nullptr)
    replicas::prepend(behind, open_own(Purpose::restore, restore_, *state, session));
  release_next(session);
  return {};
}

// ---- losing

/// The replica is gone, and with it all that its sessions had there.
void Engine::sessions_lost(Unit& unit) {
  const std::vector<std::uint64_t> lost = sessions_.replica_lost(unit.idx);
  if (!stateful_) return;
  const bool blameless = unit.life->killed_from_outside || unit.life->draining || unit.life->left;
  for (const std::uint64_t session : lost) session_lost(session, blameless);
}

void Engine::session_lost(std::uint64_t session, bool blameless) {
  drop_own(session);
  if (!sessions_.exists(session)) return;
  bool& lost = sessions_.at(session).lost;
  const auto found = saved_.find(session);
  if (found == saved_.end()) {  // it had done nothing yet
    lost = false;
    return;
  }
  SavedSession& saved = found->second;
  saved.saving = false;
  if (std::exchange(saved.restoring, false) && !blameless) ++saved.attempts;
  lost = saved.incomplete || saved.attempts >= replicas::kMaxExecutions;
  if (lost) return forget_saved(session);
  saved.away = !saved.state.empty() || !saved.calls.empty();
}

/// Those that have not been sent.
void Engine::drop_own(std::uint64_t session) {
  const auto behind = held_.find(session);
  if (behind == held_.end()) return;
  replicas::EntryList& entries = behind->second;  // stays: what leads the session is elsewhere
  for (auto next = entries.begin(); next != entries.end();) {
    replicas::Entry& entry = *next++;
    if (entry.purpose != Purpose::call) drop(entry, nullptr);
  }
}

void Engine::forget_calls(SavedSession& saved) {
  for (const LoggedCall& call : saved.calls) {
    logged_bytes_ -= call.payload->size + bytes_of(call.payload->residents);
    release(*call.payload);
  }
  saved.calls.clear();
}

void Engine::forget_saved(std::uint64_t session) {
  const auto found = saved_.find(session);
  if (found == saved_.end()) return;
  forget_calls(found->second);
  saved_.erase(found);
}

}  // namespace forge::core
