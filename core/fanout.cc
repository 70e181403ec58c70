// Fanouts. Each begins as one entry, which goes where its session is and waits like any call; when its
// turn has come it is spread: a share for each replica that is healthy then.
#include "core/cancel.h"
#include "core/engine.h"
#include "shm/clock.h"

namespace forge::core {

/// Nobody is healthy: is somebody asleep, or on its way for the first time, who could be waited for?
Refusal Engine::check_awake(const replicas::Entry& entry) const {
  if (!healthy_.empty() || wanted() == 0) return {};
  for (const auto& unit : units_) {
    if (unit->wanted && unit->arriving && unit->state != ReplicaState::quarantined) return {};
  }
  return make_error(
      {ErrorCode::no_healthy_replicas,
       "fanout of " + where(entry) + ": no replica is healthy now; wait for one or use route()"});
}

replicas::Entry& Engine::open_share(const replicas::Entry& whole, std::uint32_t part) {
  replicas::Entry& share = ledger_.open(0);
  const shm::RequestId id = share.slot.id;
  share.slot = whole.slot;
  share.slot.id = id;
  share.idempotent = whole.idempotent;
  share.called_ns = whole.called_ns;
  share.key = whole.key;
  share.call = whole.call;
  share.part = part;
  share.payload = whole.payload;
  ++static_cast<Payload*>(whole.payload)->users;
  if (share.slot.session != 0) sessions_.begin_call(share.slot.session);
  if (whole.cancel != 0) make_cancellable(share, whole.cancel);
  if (whole.slot.deadline_ns != 0)
    set_deadline(share, SteadyTime(std::chrono::nanoseconds(whole.slot.deadline_ns)));
  return share;
}

/// `fresh`: it has not waited yet, so that the queue limit binds its shares.
void Engine::spread(replicas::Entry& whole, bool fresh) {
  static_cast<Call*>(whole.call)->spread(healthy_.size());
  const std::uint64_t session = whole.slot.session;
  const std::uint32_t home = session == 0 ? kNoReplica : sessions_.at(session).replica;
  std::vector<shm::RequestId> cancellable;
  std::uint32_t part = 0;
  for (const forge::Replica& replica : healthy_) {
    replicas::Entry& share = open_share(whole, part);
    share.home = replica.idx;
    part += procs_;
    if (replica.idx == home) {
      share.in_order = true;
      ++sessions_.at(session).shares;
      share.leads = std::exchange(whole.leads, false);
    }
    if (share.cancel != 0) cancellable.push_back(share.slot.id);
    Unit& unit = *units_[replica.idx];
    if (Refusal refusal = fresh ? check_room(share, unit) : nullptr) {
      fail(share, std::move(refusal));
      close(share);
    } else {
      enqueue(share, unit);
    }
  }
  whole.call = nullptr;  // its shares'
  const auto source = whole.cancel == 0 ? nullptr : CancelState::find(whole.cancel);
  close(whole);
  // Cancelled before its shares could be found.
  if (!source || !source->cancelled()) return;
  for (const shm::RequestId id : cancellable) was_cancelled(id);
}

/// A share whose turn has come.
Refusal Engine::route_share(replicas::Entry& share) {
  Unit& unit = *units_[share.home];
  if (unit.state == ReplicaState::stopped || unit.state == ReplicaState::quarantined) {
    return make_error({ErrorCode::unavailable, name_of(unit) + " of service '" + launch_.name +
                                                   "' was gone when the share's turn came (" +
                                                   unit.failure + ")"});
  }
  enqueue(share, unit);
  return {};
}

}  // namespace forge::core
