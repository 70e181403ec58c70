#include "bench/forge_bench/chaos_ledger.h"

#include <algorithm>
#include <numeric>

#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

constexpr unsigned kIdempotentExecutions = 3;

bool is_idempotent(ChaosKind kind) {
  return kind == ChaosKind::idempotent || kind == ChaosKind::batched_idempotent;
}
bool is_batched(ChaosKind kind) {
  return kind == ChaosKind::batched || kind == ChaosKind::batched_idempotent;
}

}  // namespace

const char* to_string(ChaosKind kind) {
  static constexpr std::array<const char*, kChaosKinds> kNames = {
      "plain",  "idempotent", "session", "strict session", "batched", "batched idempotent",
      "fanout", "tensor",     "deadline"};
  return kNames.at(static_cast<std::size_t>(kind));
}

const char* to_string(ChaosOutcome outcome) {
  static constexpr std::array<const char*, kChaosOutcomes> kNames = {"ok",
                                                                     "worker_lost",
                                                                     "poison_request",
                                                                     "session_lost",
                                                                     "backpressure",
                                                                     "deadline_exceeded",
                                                                     "no_healthy_replicas",
                                                                     "other",
                                                                     "wrong",
                                                                     "lost"};
  return kNames.at(static_cast<std::size_t>(outcome));
}

unsigned allowed_executions(ChaosKind kind) {
  return is_idempotent(kind) ? kIdempotentExecutions : 1;
}

unsigned final_executions(const ChaosRequest& request) {
  // A caller who stopped waiting hears nothing of what still runs; anybody else's request is over.
  const bool may_go_on =
      request.outcome == ChaosOutcome::deadline_exceeded || request.outcome == ChaosOutcome::lost;
  return may_go_on ? allowed_executions(request.kind) : request.started;
}

void ChaosLedger::settle(const ChaosRequest& request) {
  ++outcomes_[index(request.kind)][index(request.outcome)];
  ++executions_[index(request.kind)][std::min<std::size_t>(request.started, kExecutionColumns - 1)];
  check(request);
}

void ChaosLedger::check(const ChaosRequest& request) {
  if (request.started > allowed_executions(request.kind)) {
    ++doubled_;
    complain(
        text("executed %u times, %u allowed", request.started, allowed_executions(request.kind)),
        request.number);
  }
  switch (request.outcome) {
    case ChaosOutcome::ok:
      if (request.finished == 0) complain("answered without having been executed", request.number);
      return;
    case ChaosOutcome::wrong:
      complain("answered with something else", request.number);
      return;
    case ChaosOutcome::lost:
      complain("never answered", request.number);
      return;
    default:
      check_error(request);
  }
}

void ChaosLedger::check_error(const ChaosRequest& request) {
  const std::string code = to_string(request.outcome);
  if (is_idempotent(request.kind)) ++given_up_;
  if (!may_end_so(request)) {
    complain(text("%s request ended with %s after %u executions", to_string(request.kind),
                  code.c_str(), request.started),
             request.number);
  }
  if (request.outcome == ChaosOutcome::worker_lost) {
    if (request.started > 0) ++executions_lost_;
    if (request.maybe_executed) {
      ++(is_batched(request.kind) ? batched_losses_ : single_losses_);
    } else {
      ++never_started_;
      complain("WorkerLost, although it had not started and could have been replayed",
               request.number);
    }
  }
  const bool certainly_not =
      (request.outcome == ChaosOutcome::worker_lost && !request.maybe_executed) ||
      request.outcome == ChaosOutcome::session_lost ||
      request.outcome == ChaosOutcome::backpressure ||
      request.outcome == ChaosOutcome::no_healthy_replicas;
  if (certainly_not && request.started > 0) {
    complain("executed, although " + code + " says that it was not", request.number);
  }
}

/// With this error.
bool ChaosLedger::may_end_so(const ChaosRequest& request) const {
  switch (request.outcome) {
    case ChaosOutcome::worker_lost:
      return !is_idempotent(request.kind) || !rules_.idempotent_succeed;
    case ChaosOutcome::poison_request:
      return is_idempotent(request.kind) && !rules_.idempotent_succeed;
    case ChaosOutcome::session_lost:
      return request.kind == ChaosKind::strict_session;
    case ChaosOutcome::deadline_exceeded:
      return request.kind == ChaosKind::deadline;
    case ChaosOutcome::no_healthy_replicas:
      return request.kind == ChaosKind::share;
    case ChaosOutcome::backpressure:
      return rules_.may_fill_up;
    default:
      return false;
  }
}

void ChaosLedger::recheck(std::uint64_t number, unsigned most, unsigned started) {
  if (started <= most) return;
  ++doubled_;
  complain(text("executed again after it was over: %u times, %u when its future was ready", started,
                most),
           number);
}

std::uint64_t ChaosLedger::losses() const {
  return single_losses_ + (batched_losses_ + rules_.batch_size - 1) / rules_.batch_size;
}

std::uint64_t ChaosLedger::most_losses(const ChaosEnd& end) const {
  // Of a worker that wrote garbage nothing is believed: all it had been handed counts as started.
  return end.deaths * rules_.at_once + std::min(end.scribbled, end.deaths) * rules_.window;
}

void ChaosLedger::close(const ChaosEnd& end) {
  if (losses() > most_losses(end)) {
    complain(text("%llu executions were lost, %llu deaths explain %llu",
                  static_cast<unsigned long long>(losses()),
                  static_cast<unsigned long long>(end.deaths),
                  static_cast<unsigned long long>(most_losses(end))));
  }
  if (end.violations > end.scribbled) {
    complain(text("%llu workers are said to have written garbage, %llu did",
                  static_cast<unsigned long long>(end.violations),
                  static_cast<unsigned long long>(end.scribbled)));
  }
  if (end.refused > 0 && end.scribbled == 0) {
    complain(text("%llu answers were refused, and nobody wrote garbage",
                  static_cast<unsigned long long>(end.refused)));
  }
}

void ChaosLedger::complain(const std::string& what, std::uint64_t number) {
  ++violated_;
  if (violations_.size() < kMostShown) violations_.push_back({what, number});
}

void ChaosLedger::merge(const ChaosLedger& other) {
  for (std::size_t kind = 0; kind < kChaosKinds; ++kind) {
    for (std::size_t i = 0; i < kChaosOutcomes; ++i) outcomes_[kind][i] += other.outcomes_[kind][i];
    for (std::size_t i = 0; i < kExecutionColumns; ++i)
      executions_[kind][i] += other.executions_[kind][i];
  }
  doubled_ += other.doubled_;
  never_started_ += other.never_started_;
  executions_lost_ += other.executions_lost_;
  single_losses_ += other.single_losses_;
  batched_losses_ += other.batched_losses_;
  given_up_ += other.given_up_;
  violated_ += other.violated_;
  const std::size_t room = kMostShown - std::min(kMostShown, violations_.size());
  violations_.insert(violations_.end(), other.violations_.begin(),
                     other.violations_.begin() +
                         static_cast<std::ptrdiff_t>(std::min(room, other.violations_.size())));
}

std::uint64_t ChaosLedger::count(ChaosOutcome outcome) const {
  return std::accumulate(
      outcomes_.begin(), outcomes_.end(), std::uint64_t{0},
      [&](std::uint64_t sum, const auto& of_kind) { return sum + of_kind[index(outcome)]; });
}

std::uint64_t ChaosLedger::requests(ChaosKind kind) const {
  const auto& of_kind = outcomes_[index(kind)];
  return std::accumulate(of_kind.begin(), of_kind.end(), std::uint64_t{0});
}

std::uint64_t ChaosLedger::requests() const {
  std::uint64_t sum = 0;
  for (std::size_t kind = 0; kind < kChaosKinds; ++kind)
    sum += requests(static_cast<ChaosKind>(kind));
  return sum;
}

}  // namespace forge::bench
