#include "bench/forge_bench/chaos_client.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <utility>

#include "bench/forge_bench/load.h"

namespace forge::bench {
namespace {

using chaos::Answer;
using chaos::Question;

/// Of each client; one more that is strict.
constexpr int kSessions = 4;
/// Violations after which a client stops: the report shows fewer.
constexpr std::uint64_t kHopeless = 1000;

/// Outcomes that are errors have the names of their codes.
ChaosOutcome outcome_of(const Error& error) {
  for (std::size_t i = 0; i < kChaosOutcomes; ++i) {
    const auto outcome = static_cast<ChaosOutcome>(i);
    if (error.code() == to_string(outcome)) return outcome;
  }
  return ChaosOutcome::other;
}

bool maybe_executed(const Error& error) {
  const auto* lost = dynamic_cast<const WorkerLost*>(&error);
  return lost == nullptr || lost->maybe_executed();
}

}  // namespace

ChaosClient::ChaosClient(const Service& service, const ChaosTally& tally,
                         const ChaosOptions& options, const ChaosRules& rules, int index)
    : service_(service),
      tally_(tally),
      replicas_(static_cast<std::size_t>(options.replicas)),
      inflight_(static_cast<std::size_t>(options.inflight)),
      client_(static_cast<std::uint64_t>(index) + 1),
      first_slot_(static_cast<std::size_t>(index) * kChaosSlots),
      random_(options.seed * 1'000'003 + client_),
      ledger_(rules),
      ask_(service.endpoint<Answer(Question)>("ask")),
      ask_idempotent_(service.endpoint<Answer(Question)>("ask_idempotent")),
      ask_all_(service.endpoint<Answer(Question)>("ask_all")),
      ask_batch_(service.endpoint<Answer(Question)>("ask_batch")),
      ask_batch_idempotent_(service.endpoint<Answer(Question)>("ask_batch_idempotent")),
      ask_tensor_(service.endpoint<Tensor(Tensor)>("ask_tensor")),
      past_(kChaosSlots) {
  for (int i = 0; i <= kSessions; ++i) {
    const bool strict = i == kSessions;
    const auto number = static_cast<std::uint64_t>(index * (kSessions + 1) + i);
    sessions_.push_back({number, service.start_session({.strict = strict}), strict});
  }
}

void ChaosClient::run(const std::atomic<bool>& stopping, std::atomic<std::uint64_t>& settled) {
  while (!stopping.load() && !stuck_ && ledger_.violated() < kHopeless) {
    while (open_.size() < inflight_) send();
    receive();
    settled.fetch_add(1, std::memory_order_relaxed);  // for people to look at
  }
  for (; !open_.empty(); settled.fetch_add(1, std::memory_order_relaxed)) receive();
  for (const Session& session : sessions_) service_.terminate_session(session.id);
}

ChaosKind ChaosClient::choose() {
  using Kind = ChaosKind;
  // In twentieths of the traffic.
  static constexpr std::array<Kind, 20> kMix = {Kind::plain,
                                                Kind::plain,
                                                Kind::plain,
                                                Kind::plain,
                                                Kind::idempotent,
                                                Kind::idempotent,
                                                Kind::idempotent,
                                                Kind::idempotent,
                                                Kind::session,
                                                Kind::session,
                                                Kind::session,
                                                Kind::strict_session,
                                                Kind::batched,
                                                Kind::batched,
                                                Kind::batched_idempotent,
                                                Kind::batched_idempotent,
                                                Kind::share,
                                                Kind::tensor,
                                                Kind::tensor,
                                                Kind::deadline};
  if (burst_ > 0) {
    --burst_;
    return kind_;
  }
  kind_ = kMix[random_() % kMix.size()];
  // Batches are of neighbours, and sessions are in order only if several of their calls are open.
  burst_ = static_cast<int>(random_() % 4);
  return kind_;
}

Question ChaosClient::question(std::uint64_t number, std::size_t slot,
                               std::uint64_t session) const {
  return {number, first_slot_ + slot, session, chaos::bytes_of(number)};
}

void ChaosClient::send() {
  const ChaosKind kind = choose();
  const std::size_t slot = take_slots(kind == ChaosKind::share ? replicas_ : 1);
  const std::uint64_t number = client_ << 40 | ++sent_;
  const auto ask = [&](const Ask& endpoint, std::uint64_t session = chaos::kNoSession) {
    open_.push_back({kind, number, slot, endpoint.route(question(number, slot, session))});
  };
  switch (kind) {
    case ChaosKind::plain:
      return ask(ask_);
    case ChaosKind::idempotent:
      return ask(ask_idempotent_);
    case ChaosKind::batched:
      return ask(ask_batch_);
    case ChaosKind::batched_idempotent:
      return ask(ask_batch_idempotent_);
    case ChaosKind::session:
    case ChaosKind::strict_session: {
      const Session& session =
          kind == ChaosKind::strict_session ? sessions_.back() : sessions_[random_() % kSessions];
      return ask(ask_.with({.sess_id = session.id}), session.index);
    }
    case ChaosKind::deadline:
      return ask(ask_.with({.timeout = std::chrono::milliseconds(1 + random_() % 20)}));
    case ChaosKind::share:
      open_.push_back(
          {kind, number, slot, ask_all_.fanout(question(number, slot, chaos::kNoSession))});
      return;
    case ChaosKind::tensor:
      return send_tensor(number, slot);
  }
}

void ChaosClient::send_tensor(std::uint64_t number, std::size_t slot) {
  const auto words = static_cast<std::int64_t>(chaos::kTensorHead + random_() % 4000);
  try {
    Tensor tensor = service_.allocate(DType::u64, {words});
    const auto all = tensor.span<std::uint64_t>();
    all[0] = number;
    all[1] = first_slot_ + slot;
    chaos::fill(all.subspan(chaos::kTensorHead), number);
    open_.push_back({ChaosKind::tensor, number, slot, ask_tensor_.route(tensor)});
  } catch (const Error& error) {  // the arena is full
    fail({.number = number, .kind = ChaosKind::tensor}, error, slot);
  }
}

std::size_t ChaosClient::take_slots(std::size_t count) {
  if (next_slot_ + count > kChaosSlots) next_slot_ = 0;
  for (std::size_t slot = next_slot_; slot < next_slot_ + count; ++slot) {
    retire(slot);
    tally_.executions(first_slot_ + slot).started.store(0);
    tally_.executions(first_slot_ + slot).finished.store(0);
  }
  return std::exchange(next_slot_, next_slot_ + count);
}

void ChaosClient::retire(std::size_t slot) {
  const Past past = std::exchange(past_[slot], {});
  if (past.number == 0) return;
  ledger_.recheck(past.number, past.most, tally_.executions(first_slot_ + slot).started.load());
}

void ChaosClient::recheck() {
  for (std::size_t slot = 0; slot < past_.size(); ++slot) retire(slot);
}

void ChaosClient::receive() {
  Open open = std::move(open_.front());
  open_.pop_front();
  std::visit(
      [&](auto& future) {
        const std::chrono::duration<double> patience(stuck_ ? 1 : kStallSeconds);
        if (future.wait_for(std::chrono::duration_cast<std::chrono::milliseconds>(patience))) {
          take(open, future);
          return;
        }
        stuck_ = true;
        settle({.number = open.number, .kind = open.kind, .outcome = ChaosOutcome::lost},
               open.slot);
      },
      open.future);
}

bool ChaosClient::is_right(const Open& open, const Answer& answer) const {
  return answer.number == open.number && answer.replica >= 0 &&
         static_cast<std::size_t>(answer.replica) < replicas_ &&
         answer.payload == chaos::bytes_of(chaos::answer_to(open.number));
}

bool ChaosClient::is_right(const Open& open, const Tensor& answer) const {
  const auto words = answer.span<std::uint64_t>();
  return words.size() >= chaos::kTensorHead && words[0] == open.number &&
         words[1] == first_slot_ + open.slot &&
         chaos::matches(words.subspan(chaos::kTensorHead), chaos::answer_to(open.number));
}

void ChaosClient::take(const Open& open, One& future) {
  const Result<Answer> result = future.result();
  const ChaosRequest request{.number = open.number, .kind = open.kind};
  if (!result) return fail(request, result.error(), open.slot);
  ChaosRequest right = request;
  if (!is_right(open, *result)) right.outcome = ChaosOutcome::wrong;
  settle(right, open.slot);
}

void ChaosClient::take(const Open& open, Whole& future) {
  const Result<Tensor> result = future.result();
  ChaosRequest request{.number = open.number, .kind = open.kind};
  if (!result) return fail(request, result.error(), open.slot);
  if (!is_right(open, *result)) request.outcome = ChaosOutcome::wrong;
  settle(request, open.slot);
}

void ChaosClient::take(const Open& open, All& future) {
  const auto result = future.result();
  if (result) return take_shares(open, *result);
  // As a whole: no replica may have executed it.
  for (std::size_t idx = 1; idx < replicas_; ++idx) {
    if (tally_.executions(first_slot_ + open.slot + idx).started.load() != 0)
      ledger_.complain("a share of a fanout that failed as a whole was executed", open.number);
  }
  fail({.number = open.number, .kind = open.kind}, result.error(), open.slot);
}

/// An answer says which replica it came from, an error does not: those that have executed something
/// and not answered are attributed to the errors that admit it.
void ChaosClient::take_shares(const Open& open, const std::vector<Result<Answer>>& shares) {
  std::vector<bool> accounted(replicas_);
  std::int32_t last = -1;
  for (const Result<Answer>& share : shares) {
    if (!share) continue;
    ChaosRequest request{.number = open.number, .kind = open.kind};
    const bool right = is_right(open, *share) && share->replica > last;
    if (!right) {
      request.outcome = ChaosOutcome::wrong;
      settle(request, open.slot);
      continue;
    }
    last = share->replica;
    accounted[static_cast<std::size_t>(last)] = true;
    settle(request, open.slot + static_cast<std::size_t>(last));
  }
  const auto take_executed = [&](bool executed) {
    for (std::size_t idx = 0; idx < replicas_; ++idx) {
      if (accounted[idx]) continue;
      const bool did = tally_.executions(first_slot_ + open.slot + idx).started.load() != 0;
      if (did != executed) continue;
      accounted[idx] = true;
      return idx;
    }
    return replicas_;
  };
  for (const Result<Answer>& share : shares) {
    if (share) continue;
    std::size_t idx = maybe_executed(share.error()) ? take_executed(true) : replicas_;
    if (idx == replicas_) idx = take_executed(false);
    if (idx == replicas_) {
      ledger_.complain("more shares were executed than admit it", open.number);
      continue;
    }
    fail({.number = open.number, .kind = open.kind}, share.error(), open.slot + idx);
  }
  if (take_executed(true) != replicas_)
    ledger_.complain("a replica executed a share that nobody sent it", open.number);
}

void ChaosClient::fail(ChaosRequest request, const Error& error, std::size_t slot) {
  request.outcome = outcome_of(error);
  request.maybe_executed = maybe_executed(error);
  const std::uint64_t before = ledger_.violated();
  settle(request, slot);
  if (ledger_.violated() != before && first_error_.empty()) first_error_ = error.what();
}

void ChaosClient::settle(ChaosRequest request, std::size_t slot) {
  const chaos::Executions& executions = tally_.executions(first_slot_ + slot);
  request.started = executions.started.load();
  request.finished = executions.finished.load();
  ledger_.settle(request);
  past_[slot] = {request.number, static_cast<std::uint8_t>(final_executions(request))};
}

}  // namespace forge::bench
