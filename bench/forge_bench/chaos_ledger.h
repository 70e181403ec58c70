// The account of forge-bench chaos: what was asked, how it ended, how often it was executed, and
// which of forge's promises that breaks.
//
// Pure: no clock, no thread, no I/O. Each client keeps one; they are merged at the end.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace forge::bench {

enum class ChaosKind : std::uint8_t {
  plain,
  idempotent,
  session,
  strict_session,
  batched,
  batched_idempotent,
  share,  ///< one replica's part of a fanout
  tensor,
  deadline,  ///< plain, with a time limit
};
inline constexpr std::size_t kChaosKinds = 9;
const char* to_string(ChaosKind kind);

enum class ChaosOutcome : std::uint8_t {
  ok,
  worker_lost,
  poison_request,
  session_lost,
  backpressure,
  deadline_exceeded,
  no_healthy_replicas,
  other,
  wrong,  ///< a value that is not the request's
  lost,   ///< the future never completed
};
inline constexpr std::size_t kChaosOutcomes = 10;
const char* to_string(ChaosOutcome outcome);

/// One request at the moment its future was ready, or was given up.
struct ChaosRequest {
  std::uint64_t number = 0;
  ChaosKind kind = ChaosKind::plain;
  ChaosOutcome outcome = ChaosOutcome::ok;
  bool maybe_executed = true;  ///< what WorkerLost says
  unsigned started = 0;        ///< executions, by the tally
  unsigned finished = 0;
};

/// Executions forge may give a request of that kind.
unsigned allowed_executions(ChaosKind kind);
/// Executions that may be on the tally when all workers are gone.
unsigned final_executions(const ChaosRequest& request);

/// What is known of the service when all is over.
struct ChaosEnd {
  std::uint64_t deaths = 0;      ///< of workers
  std::uint64_t scribbled = 0;   ///< times a worker wrote over its answers
  std::uint64_t violations = 0;  ///< counted by the engine
  std::uint64_t refused = 0;     ///< answers the engine did not count
};

struct ChaosRules {
  /// Only kills from outside (and slowness) happen: idempotent requests must all succeed.
  bool idempotent_succeed = true;
  std::uint64_t batch_size = 1;
  std::uint64_t window = 256;  ///< calls a worker is handed at once
  bool may_fill_up = false;    ///< Backpressure is a right answer
  std::uint64_t at_once = 1;   ///< calls, or batches, that are lost with a worker at most
};

class ChaosLedger {
 public:
  struct Violation {
    std::string what;
    std::uint64_t number = 0;  ///< the request's; 0: of no single request
  };
  static constexpr std::size_t kExecutionColumns = 5;  // 0, 1, 2, 3, more
  static constexpr std::size_t kMostShown = 20;

  explicit ChaosLedger(ChaosRules rules) : rules_(rules) {}

  /// Once for each request.
  void settle(const ChaosRequest& request);
  /// Later: it may not have been executed again. `most` is what final_executions() allowed.
  void recheck(std::uint64_t number, unsigned most, unsigned started);
  /// What can only be said when all requests have been settled and merged.
  void close(const ChaosEnd& end);
  /// Anything else that must not be.
  void complain(const std::string& what, std::uint64_t number = 0);
  void merge(const ChaosLedger& other);

  std::uint64_t count(ChaosKind kind, ChaosOutcome outcome) const {
    return outcomes_[index(kind)][index(outcome)];
  }
  std::uint64_t count(ChaosOutcome outcome) const;
  /// Requests of that kind with `times` executions; the last column counts all beyond.
  std::uint64_t executed(ChaosKind kind, std::size_t times) const {
    return executions_[index(kind)].at(times);
  }
  std::uint64_t requests(ChaosKind kind) const;
  std::uint64_t requests() const;

  std::uint64_t lost() const {
    return count(ChaosOutcome::lost) + count(ChaosOutcome::wrong) + never_started_;
  }
  std::uint64_t doubled() const { return doubled_; }
  /// WorkerLost, with an execution on the tally.
  std::uint64_t executions_lost() const { return executions_lost_; }
  /// WorkerLost that may have been executed, a batch counted as one; each takes a death.
  std::uint64_t losses() const;
  /// The most losses() there can be.
  std::uint64_t most_losses(const ChaosEnd& end) const;
  /// Idempotent requests that ended with WorkerLost or PoisonRequest.
  std::uint64_t given_up() const { return given_up_; }

  bool holds() const { return violated_ == 0; }
  std::uint64_t violated() const { return violated_; }
  /// The first kMostShown.
  const std::vector<Violation>& violations() const { return violations_; }

 private:
  template <class Enum>
  static constexpr std::size_t index(Enum value) {
    return static_cast<std::size_t>(value);
  }
  void check(const ChaosRequest& request);
  void check_error(const ChaosRequest& request);
  bool may_end_so(const ChaosRequest& request) const;

  ChaosRules rules_;
  std::array<std::array<std::uint64_t, kChaosOutcomes>, kChaosKinds> outcomes_{};
  std::array<std::array<std::uint64_t, kExecutionColumns>, kChaosKinds> executions_{};
  std::uint64_t doubled_ = 0;
  std::uint64_t never_started_ = 0;  // and yet given up
  std::uint64_t executions_lost_ = 0;
  std::uint64_t single_losses_ = 0;
  std::uint64_t batched_losses_ = 0;
  std::uint64_t given_up_ = 0;
  std::uint64_t violated_ = 0;
  std::vector<Violation> violations_;
};

}  // namespace forge::bench
