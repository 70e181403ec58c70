// The model that model_test.cc holds the engine against: what was done to each call, and what may come
// of it.
#pragma once

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "model_log.h"
#include "support.h"

namespace forge::e2e {

using Random = std::minstd_rand;

/// An endpoint as the model knows it.
struct Kind {
  std::string name;
  bool again = false;    ///< idempotent
  bool batched = false;  ///< one execution for several calls
  std::size_t most = 1;  ///< calls of one batch
};

struct Source {
  void cancel() {
    begun = true;
    source.cancel();
  }
  CancelSource source;
  std::atomic<bool> begun{false};
};

struct Outcome {
  std::string code;  ///< "ok" if there was a value
  std::string text;
  std::int64_t value = 0;
  bool maybe_executed = false;
};

inline Outcome outcome_of(const Result<std::int64_t>& result) {
  if (result.has_value()) return {"ok", {}, *result, true};
  const auto* const lost = dynamic_cast<const WorkerLost*>(&result.error());
  return {std::string(result.error().code()), result.error().what(), 0,
          lost != nullptr && lost->maybe_executed()};
}

/// What was done to one call, and what became of it.
struct Call {
  std::int64_t id = 0;
  const Kind* kind = nullptr;
  std::int64_t deed = 0;
  std::uint64_t session = 0;
  bool strict = false;
  bool timed = false;
  bool fanned = false;
  bool dropped = false;
  std::shared_ptr<Source> source;
  std::size_t shares = 1;
  std::vector<Outcome> outcomes;
};

/// What may happen in a round.
struct Plan {
  explicit Plan(Random& random) {
    mixed = random() % 3 != 0;
    deaths = random() % 3 != 0;
    ending = random() % 4;
    options.procs = random() % 5 == 0 ? 2 : 1;
    options.num_replicas = static_cast<int>(random() % (options.procs == 1 ? 4 : 2)) + 1;
    options.replica_max_concurrent_requests = static_cast<int>(random() % 10) + 1;
    if (random() % 4 == 0) options.max_queued_requests = static_cast<int>(random() % 40) + 1;
    options.restart = restart_at_once();
    options.arena_bytes = 8 << 20;
    options.wait = random() % 4 == 3 ? Wait::block : Wait::adaptive;
    add("plain", false, false, 1);
    add("plain_again", true, false, 1);
    const auto size = [&] { return random() % 9 + 1; };
    add("together", false, false, size());
    add("together_again", true, false, size());
    add("batch", false, true, size());
    add("batch_again", true, true, size());
    add("single", false, true, 1);
    if (mixed) {
      add("task", false, false, 1);
      add("task_again", true, false, 1);
      add("task_together", false, false, size());
      add("task_batch", false, true, size());
      add("task_batch_again", true, true, size());
    }
    const char* const routers[] = {"round_robin", "least_loaded", "power_of_two_choices", "hash"};
    for (const Kind& kind : kinds) {
      options.endpoints[kind.name] = {.router = routers[random() % std::size(routers)],
                                      .batch_size = static_cast<int>(kind.most),
                                      .batch_timeout = std::chrono::microseconds(random() % 4000),
                                      .idempotent = kind.again};
    }
  }
  void add(const char* name, bool again, bool batched, std::size_t most) {
    kinds.push_back({name, again, batched, most});
  }
  bool small_queues() const { return options.max_queued_requests < 100; }
  bool shut_down_early() const { return ending == 0; }

  bool mixed = false;
  bool deaths = false;
  std::uint64_t ending = 0;  ///< 0: shut down meanwhile; 1: destroyed with calls open; else: quiet
  Options options;
  std::vector<Kind> kinds;
};

/// Executions, as the actors noted them.
class Log {
 public:
  explicit Log(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    for (ModelRecord record; file.read(reinterpret_cast<char*>(&record), sizeof(record));)
      records_.push_back(record);
    for (const ModelRecord& record : records_) {
      if (record.ends) continue;
      ++runs_[record.call];
      if (record.throws) spoilt_.insert(record.call);
    }
  }
  const std::vector<ModelRecord>& records() const { return records_; }
  std::size_t runs(std::int64_t call) const {
    const auto found = runs_.find(call);
    return found == runs_.end() ? 0 : found->second;
  }
  bool spoilt(std::int64_t call) const { return spoilt_.contains(call); }

 private:
  std::vector<ModelRecord> records_;
  std::map<std::int64_t, std::size_t> runs_;
  std::set<std::int64_t> spoilt_;  // were executed together with one that throws
};

/// All that was done in a round, held against what happened.
class Verdict {
 public:
  Verdict(const Plan& plan, const Log& log, std::size_t kills)
      : plan_(plan), log_(log), deaths_(kills) {}

  void add(const std::deque<Call>& calls) {
    for (const Call& call : calls) {
      calls_[call.id] = &call;
      if (call.deed == static_cast<std::int64_t>(Deed::dies)) deaths_ += log_.runs(call.id);
    }
  }

  void check() {
    for (const auto& [id, call] : calls_) {
      SCOPED_TRACE("call " + std::to_string(id) + " of " + call->kind->name + ", deed " +
                   std::to_string(call->deed) + (call->fanned ? ", fanned out" : "") +
                   (call->session != 0 ? ", in a session" : ""));
      check_call(*call);
      for (const Outcome& outcome : call->outcomes) check_outcome(*call, outcome);
    }
    check_executions();
    check_sessions();
    // Coroutines and batches die together.
    std::size_t together = 1;
    for (const Kind& kind : plan_.kinds)
      together = std::max(together, kind.batched ? kind.most : 1);
    if (plan_.mixed)
      together *= static_cast<std::size_t>(plan_.options.replica_max_concurrent_requests);
    EXPECT_TRUE(plan_.options.procs > 1 || lost_ <= deaths_ * together)
        << lost_ << " lost by " << deaths_ << " deaths";
  }

  /// Nothing is open any more, and every share ended where it was counted.
  void check_metrics(const MetricsSummary& summary) const {
    std::uint64_t successful = 0;
    std::uint64_t failed = 0;
    for (const auto& [idx, replica] : summary.replicas) {
      EXPECT_EQ(replica.total_requests, replica.successful_requests + replica.failed_requests);
      successful += replica.successful_requests;
      failed += replica.failed_requests;
    }
    std::uint64_t values = 0;
    std::uint64_t errors = 0;   // of calls that had a replica
    std::uint64_t unknown = 0;  // dropped, or never had a replica
    for (const auto& [id, call] : calls_) {
      if (call->dropped) ++unknown;
      for (const Outcome& outcome : call->outcomes) {
        const bool had_one = outcome.code == "actor_error" || outcome.code == "worker_lost";
        ++(outcome.code == "ok" ? values : had_one ? errors : unknown);
      }
    }
    EXPECT_GE(successful, values);
    EXPECT_GE(failed, errors);
    EXPECT_LE(successful + failed, values + errors + unknown);
    for (const Kind& kind : plan_.kinds)
      EXPECT_LE(summary.endpoints.at(kind.name).batch_sizes.size(), kind.most + 1);
  }

  std::size_t lost() const { return lost_; }
  Outcomes outcomes() const {
    Outcomes all;
    for (const auto& [id, call] : calls_) {
      for (const Outcome& outcome : call->outcomes) ++all[outcome.code];
    }
    return all;
  }
  std::size_t size() const { return calls_.size(); }

 private:
  void check_call(const Call& call) {
    if (call.dropped) {
      EXPECT_EQ(call.outcomes.size(), 0U);
    } else {
      EXPECT_EQ(call.outcomes.size(), call.shares) << "completed another number of times";
    }
    // A dropped fanout went to as many as there were.
    EXPECT_LE(log_.runs(call.id), call.shares * (call.kind->again ? 3 : 1)) << "ran too often";
  }

  void check_outcome(const Call& call, const Outcome& outcome) {
    const std::size_t runs = log_.runs(call.id);
    const std::string& code = outcome.code;
    const auto says = [&](const char* what) {
      return outcome.text.find(what) != std::string::npos;
    };
    if (code == "ok") {
      EXPECT_EQ(outcome.value, answer_of(call.id)) << "somebody else's answer";
      EXPECT_GE(runs, 1U);
      EXPECT_GE(call.deed, 0);
    } else if (code == "cancelled") {
      EXPECT_TRUE(call.source && call.source->begun);
    } else if (code == "deadline_exceeded") {
      EXPECT_TRUE(call.timed);
    } else if (code == "worker_lost") {
      ++lost_;
      EXPECT_TRUE(outcome.maybe_executed) << "what has not started is replayed";
      EXPECT_GE(deaths_, call.kind->again ? 3U : 1U) << outcome.text;
    } else if (code == "poison_request") {
      EXPECT_TRUE(call.kind->again);
      EXPECT_EQ(call.deed, static_cast<std::int64_t>(Deed::dies)) << "it had done nothing";
      EXPECT_GE(runs, 2U);
    } else if (code == "actor_error") {
      EXPECT_TRUE(call.deed < 0 ||
                  (call.kind->batched && !call.kind->again && log_.spoilt(call.id)))
          << outcome.text;
      EXPECT_GE(runs, 1U);
    } else if (code == "session_lost") {
      EXPECT_TRUE(call.strict && deaths_ > 0);
    } else if (code == "backpressure") {
      EXPECT_TRUE(plan_.small_queues()) << outcome.text;
      EXPECT_TRUE(call.fanned || runs == 0);
    } else if (code == "stopped") {
      EXPECT_TRUE(plan_.ending < 2) << outcome.text;
    } else if (code == "no_healthy_replicas") {
      EXPECT_TRUE(call.fanned && deaths_ > 0);
    } else {
      ADD_FAILURE() << "unexpected " << code << ": " << outcome.text;
    }
    if (!call.fanned && (says("before it started") || says("was not started") || says("not sent") ||
                         says("before it was sent"))) {
      EXPECT_EQ(runs, 0U) << "it ran, but: " << outcome.text;
    }
  }

  /// Who was executed together may be.
  void check_executions() const {
    std::map<std::pair<std::int32_t, std::uint32_t>, std::vector<const ModelRecord*>> executions;
    for (const ModelRecord& record : log_.records()) {
      ASSERT_TRUE(calls_.contains(record.call)) << record.call << " was executed, nobody called it";
      if (!record.ends) executions[{record.pid, record.execution}].push_back(&record);
    }
    std::set<std::int64_t> ran;
    for (const ModelRecord& record : log_.records()) {
      if (record.ends || ran.insert(record.call).second) continue;
      EXPECT_EQ(record.size, 1U) << "call " << record.call << " was run again in a batch";
    }
    for (const auto& [id, records] : executions) {
      const Call& first = *calls_.at(records.front()->call);
      const std::size_t size = records.front()->size;
      EXPECT_LE(records.size(), size);
      EXPECT_LE(size, first.kind->batched ? first.kind->most : 1) << first.kind->name;
      for (const ModelRecord* record : records) {
        const Call& call = *calls_.at(record->call);
        EXPECT_EQ(call.kind, first.kind);
        EXPECT_EQ(record->session, call.session) << "call " << call.id;
        if (call.session != 0 || call.fanned) {
          EXPECT_EQ(size, 1U) << "call " << call.id << " in a batch";
        }
      }
    }
  }

  /// Calls of a session run one at a time and in the order they were made, over deaths too.
  void check_sessions() const {
    struct State {
      std::int64_t last = 0;
      std::set<std::int64_t> begun;
      const ModelRecord* running = nullptr;
      std::set<std::int32_t> dead;  // processes that did not end a call before the next began
    };
    std::map<std::uint64_t, State> sessions;
    for (const ModelRecord& record : log_.records()) {
      if (record.session == 0 || calls_.at(record.call)->fanned) continue;
      State& session = sessions[record.session];
      EXPECT_FALSE(session.dead.contains(record.pid))
          << "call " << record.call << " beside another of its session";
      if (record.ends) {
        session.running = nullptr;
        continue;
      }
      if (session.running != nullptr) {
        EXPECT_NE(session.running->pid, record.pid)
            << "call " << record.call << " beside " << session.running->call;
        session.dead.insert(session.running->pid);
      }
      session.running = &record;
      // In lockstep a rank runs ahead of another; if that dies, several are run again.
      if (plan_.options.procs > 1 && !session.begun.insert(record.call).second) continue;
      EXPECT_GE(record.call, session.last) << "of one session, out of order";
      session.last = record.call;
    }
  }

  const Plan& plan_;
  const Log& log_;
  std::size_t deaths_;
  std::size_t lost_ = 0;
  std::map<std::int64_t, const Call*> calls_;
};

}  // namespace forge::e2e
