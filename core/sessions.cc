#include "core/sessions.h"

namespace forge::core {

std::uint64_t Sessions::open(std::string_view id, bool strict, Time now) {
  if (const std::uint64_t number = find(id); number != 0) return number;
  const std::uint64_t number = ++last_;
  SessionState& state = states_[number];
  state.id = id;
  state.strict = strict;
  state.idle_since = now;
  numbers_.emplace(id, number);
  return number;
}

std::uint64_t Sessions::find(std::string_view id) const {
  const auto found = numbers_.find(id);
  return found == numbers_.end() ? 0 : found->second;
}

void Sessions::place(std::uint64_t number, std::uint32_t replica) {
  SessionState& state = at(number);
  if (state.replica == replica) return;
  if (state.replica != kNoReplica) --per_replica_[state.replica];
  state.replica = replica;
  if (replica != kNoReplica) ++per_replica_[replica];
  if (state.ended) return;
  if (replica != kNoReplica) {
    map_.insert_or_assign(state.id, replica);
  } else {
    map_.erase(state.id);
  }
}

void Sessions::end_call(std::uint64_t number, Time now) {
  SessionState& state = at(number);
  state.idle_since = now;
  if (--state.calls == 0 && state.ended) forget(number);
}

bool Sessions::end(std::string_view id) {
  const std::uint64_t number = find(id);
  if (number == 0) return false;
  SessionState& state = at(number);
  state.ended = true;
  map_.erase(state.id);
  numbers_.erase(state.id);
  if (state.calls == 0) forget(number);
  return true;
}

std::vector<std::uint64_t> Sessions::replica_lost(std::uint32_t replica) {
  std::vector<std::uint64_t> lost;
  for (auto& [number, state] : states_) {
    if (state.replica != replica) continue;
    place(number, kNoReplica);
    state.lost = state.strict;
    lost.push_back(number);
  }
  return lost;
}

bool Sessions::evict(Time now, std::chrono::nanoseconds timeout) {
  std::vector<std::string> idle;
  for (const auto& [id, number] : numbers_) {
    const SessionState& state = at(number);
    if (state.calls == 0 && now - state.idle_since >= timeout) idle.push_back(id);
  }
  for (const std::string& id : idle) end(id);
  return !numbers_.empty();
}

std::size_t Sessions::on(std::uint32_t replica) const {
  const auto found = per_replica_.find(replica);
  return found == per_replica_.end() ? 0 : found->second;
}

void Sessions::forget(std::uint64_t number) {
  place(number, kNoReplica);
  states_.erase(number);
  forgotten_(number);
}

}  // namespace forge::core
