#include "replicas/ledger.h"

#include <algorithm>

namespace forge::replicas {

void append(EntryList& list, Entry& entry) {
  list.push_back(entry);
  entry.list = &list;
}

void prepend(EntryList& list, Entry& entry) {
  list.push_front(entry);
  entry.list = &list;
}

void unlink(Entry& entry) {
  entry.list->erase(entry.list->iterator_to(entry));
  entry.list = nullptr;
}

Entry& Ledger::open(std::uint16_t client) {
  if (free_.empty()) {
    const auto first = static_cast<std::uint32_t>(chunks_.size() * kChunk);
    chunks_.push_back(std::make_unique<Entry[]>(kChunk));
    free_.reserve(chunks_.size() * kChunk);
    for (std::uint32_t i = kChunk; i-- > 0;) {
      chunks_.back()[i].slot.id = {first + i, 0};
      free_.push_back(first + i);
    }
  }
  const std::uint32_t index = free_.back();
  free_.pop_back();
  ++open_;
  Entry& entry = chunks_[index / kChunk][index % kChunk];
  // Never 0, also when they have all been used: no id is then that of no request.
  const shm::RequestId id{index, std::max(entry.slot.id.generation + 1, 1U)};
  entry.slot = {};
  entry.slot.id = id;
  entry.slot.client = client;
  entry.slot.batch = 1;
  entry.slot.kind = shm::RequestKind::call;
  entry.state = EntryState::queued;
  entry.purpose = Purpose::call;
  entry.idempotent = false;
  entry.executions = 0;
  entry.home = kAnyReplica;
  entry.rank = kAllRanks;
  entry.replica = kAnyReplica;
  entry.waiting = 0;
  entry.part = 0;
  entry.incarnation = 0;
  entry.batch = 0;
  entry.cancel = 0;
  entry.deaths = 0;
  entry.died_alone = false;
  entry.alone = false;
  entry.leads = false;
  entry.spreads = false;
  entry.in_order = false;
  entry.called_ns = 0;
  entry.left_ns = 0;
  entry.call = nullptr;
  entry.payload = nullptr;
  return entry;
}

Entry* Ledger::find(shm::RequestId id) {
  if (id.entry >= chunks_.size() * kChunk) return nullptr;
  Entry& entry = chunks_[id.entry / kChunk][id.entry % kChunk];
  return entry.state != EntryState::closed && entry.slot.id == id ? &entry : nullptr;
}

void Ledger::sent(Entry& entry, std::uint32_t replica, std::uint64_t incarnation,
                  std::uint32_t ranks) {
  entry.state = EntryState::sent;
  entry.replica = replica;
  entry.incarnation = incarnation;
  entry.waiting = ranks;
  entry.failed = false;
  entry.running_ns = -1;
  ++entry.slot.attempt;
  entry.positions.clear();
  entry.answered.assign(ranks, false);
}

bool Ledger::accept(Entry& entry, std::uint32_t replica, std::uint64_t incarnation,
                    std::uint32_t rank, std::uint16_t attempt) {
  const std::uint32_t index = entry.rank == kAllRanks ? rank : 0;
  if (entry.state != EntryState::sent || entry.replica != replica ||
      entry.incarnation != incarnation || entry.slot.attempt != attempt ||
      (entry.rank != kAllRanks && entry.rank != rank) || index >= entry.answered.size() ||
      entry.answered[index]) {
    return false;
  }
  entry.answered[index] = true;
  --entry.waiting;
  return true;
}

Verdict Ledger::lost(Entry& entry, bool started, Blame blame) {
  if (!started) {
    entry.state = EntryState::queued;
    return Verdict::replay;
  }
  ++entry.executions;
  if (blame != Blame::nobody) ++entry.deaths;
  entry.died_alone = entry.died_alone || blame == Blame::alone;
  if (entry.idempotent && entry.deaths > 1 && entry.died_alone) return Verdict::poison;
  if (entry.idempotent && entry.executions < kMaxExecutions) {
    entry.state = EntryState::queued;
    return Verdict::retry;
  }
  return Verdict::lost;
}

Verdict Ledger::lost_for_good(Entry& entry, bool started) {
  if (started) ++entry.executions;
  return Verdict::lost;
}

void Ledger::close(Entry& entry) {
  entry.state = EntryState::closed;
  entry.call = nullptr;
  entry.payload = nullptr;
  --open_;
  free_.push_back(entry.slot.id.entry);
}

}  // namespace forge::replicas
