#include "bench/forge_bench/chaos_faults.h"

#include <signal.h>

#include <algorithm>

#include "bench/forge_bench/kill.h"

namespace forge::bench {
namespace {

using chaos::Fault;
using namespace std::chrono_literals;

constexpr auto kTick = 1ms;
/// When a replica counts as gone for good. Not a bound on time: a hang has to end.
constexpr auto kPatience = 60s;

}  // namespace

ChaosFaults::ChaosFaults(const Service& service, const ChaosTally& tally,
                         const ChaosOptions& options)
    : service_(service), tally_(tally), options_(options), random_(options.seed) {
  targets_.resize(static_cast<std::size_t>(options.replicas));
  thread_ = std::jthread([this](const std::stop_token& stopping) { run(stopping); });
}

const ChaosFaultCounts& ChaosFaults::stop() {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
  return counts_;
}

void ChaosFaults::run(const std::stop_token& stopping) {
  auto next = Clock::now() + pause();
  while (!stopping.stop_requested()) {
    std::this_thread::sleep_for(kTick);
    const std::vector<ReplicaStatus> replicas = service_.replicas();
    look(replicas);
    resume(false);
    if (Clock::now() < next) continue;
    commit(replicas);
    next = Clock::now() + pause();
  }
  settle();
}

std::chrono::milliseconds ChaosFaults::pause() {
  const auto [least, most] = options_.every_ms;
  return std::chrono::milliseconds(std::uniform_int_distribution(least, most)(random_));
}

/// Replicas that live again.
void ChaosFaults::look(const std::vector<ReplicaStatus>& replicas) {
  for (const ReplicaStatus& replica : replicas) {
    Target& target = targets_.at(replica.idx);
    if (!replica.healthy || replica.incarnation <= target.incarnation) continue;
    const std::int64_t since =
        target.since_ns != 0 ? target.since_ns : cell(replica.idx).fired_ns.exchange(0);
    if (since != 0) counts_.recovery.record(now_ns() - since);
    target.incarnation = replica.incarnation;
    target.since_ns = 0;
  }
}

void ChaosFaults::commit(const std::vector<ReplicaStatus>& replicas) {
  const Fault fault = options_.faults[random_() % options_.faults.size()];
  const auto moment = static_cast<std::uint32_t>(random_() % chaos::kMoments);
  std::vector<const ReplicaStatus*> whole;
  bool any_stopped = false;
  for (const ReplicaStatus& replica : replicas) {
    const Target& target = targets_[replica.idx];
    any_stopped = any_stopped || target.stopped;
    if (replica.healthy && !target.stopped && target.since_ns == 0 &&
        cell(replica.idx).armed.load() == 0) {
      whole.push_back(&replica);
    }
  }
  if (whole.empty()) return;  // all of them have enough to do
  const ReplicaStatus& chosen = *whole[random_() % whole.size()];
  Target& target = targets_[chosen.idx];
  if (chosen.pids.empty()) return;
  const int pid = chosen.pids[random_() % chosen.pids.size()];
  switch (fault) {
    case Fault::kill: {
      const std::int64_t now = now_ns();
      if (!kill_worker(service_, pid)) return;
      target.since_ns = now;
      ++counts_.committed[static_cast<std::size_t>(fault)];
      return;
    }
    case Fault::stop:
      if (!any_stopped) stop_worker(target, pid);  // somebody has to answer
      return;
    default:
      cell(chosen.idx).armed.store(chaos::armed(fault, moment));
  }
}

void ChaosFaults::stop_worker(Target& target, int pid) {
  shm::FileDescriptor worker = hold_worker(service_, pid);
  if (!worker || !send_signal(worker, SIGSTOP)) return;
  target.since_ns = now_ns();
  target.stopped = std::move(worker);
  // Mostly a hiccup, sometimes long enough to be noticed.
  const bool hiccup = random_() % 16 != 0;
  target.resume_at = Clock::now() + std::chrono::milliseconds(hiccup ? 10 + random_() % 90 : 2000);
  ++counts_.committed[static_cast<std::size_t>(Fault::stop)];
}

void ChaosFaults::resume(bool all) {
  for (Target& target : targets_) {
    if (!target.stopped || (!all && Clock::now() < target.resume_at)) continue;
    if (send_signal(target.stopped, SIGCONT)) {
      ++counts_.resumed;
      target.since_ns = 0;
    } else {
      ++counts_.replaced;
    }
    target.stopped = shm::FileDescriptor();
  }
}

void ChaosFaults::settle() {
  for (std::size_t idx = 0; idx < targets_.size(); ++idx) cell(idx).armed.store(0);
  resume(true);
  const auto give_up = Clock::now() + kPatience;
  std::vector<ReplicaStatus> replicas;
  const auto is_back = [&](const ReplicaStatus& replica) {
    // A death that nobody has seen yet leaves its replica healthy for a moment.
    return replica.healthy && targets_.at(replica.idx).since_ns == 0;
  };
  do {
    std::this_thread::sleep_for(kTick);
    replicas = service_.replicas();
    look(replicas);
  } while (!std::ranges::all_of(replicas, is_back) && Clock::now() < give_up);
  for (const ReplicaStatus& replica : replicas) {
    if (is_back(replica)) continue;
    counts_.not_back.push_back("replica " + std::to_string(replica.idx) +
                               " did not come back: " + std::string(to_string(replica.state)));
  }
  for (const Fault fault :
       {Fault::segv, Fault::abort, Fault::slow, Fault::corrupt, Fault::forged}) {
    const auto index = static_cast<std::size_t>(fault);
    counts_.committed[index] = tally_->fired[index].load();
  }
}

}  // namespace forge::bench
