// One thread that asks forge-bench chaos' actor everything there is to ask, and holds each answer
// and the tally against what must be.
#pragma once

#include <forge/service.h>
#include <atomic>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "bench/forge_bench/chaos_ledger.h"
#include "bench/forge_bench/chaos_options.h"
#include "bench/forge_bench/chaos_tally.h"
#include "tools/plugins/chaos/messages.h"

namespace forge::bench {

/// Slots of the tally that belong to each client; more than it can use while a call is open.
inline constexpr std::size_t kChaosSlots = std::size_t{1} << 17;

class ChaosClient {
 public:
  ChaosClient(const Service& service, const ChaosTally& tally, const ChaosOptions& options,
              const ChaosRules& rules, int index);

  /// Until `stopping`; then waits for what is open. Settled requests are counted in `settled`.
  void run(const std::atomic<bool>& stopping, std::atomic<std::uint64_t>& settled);
  /// When all workers are gone: nothing may have been executed since.
  void recheck();
  const ChaosLedger& ledger() const { return ledger_; }
  /// Of the first error that is a violation by itself; empty if there is none.
  const std::string& first_error() const { return first_error_; }

 private:
  using Ask = Endpoint<chaos::Answer(chaos::Question)>;
  using One = Future<chaos::Answer>;
  using All = Future<std::vector<Result<chaos::Answer>>>;
  using Whole = Future<Tensor>;
  struct Open {
    ChaosKind kind;
    std::uint64_t number;
    std::size_t slot;
    std::variant<One, All, Whole> future;
  };
  struct Session {
    std::uint64_t index;
    std::string id;
    bool strict;
  };
  /// What used a slot last.
  struct Past {
    std::uint64_t number = 0;
    std::uint8_t most = 0;
  };

  ChaosKind choose();
  void send();
  void send_tensor(std::uint64_t number, std::size_t slot);
  chaos::Question question(std::uint64_t number, std::size_t slot, std::uint64_t session) const;
  std::size_t take_slots(std::size_t count);
  void retire(std::size_t slot);

  void receive();
  void take(const Open& open, One& future);
  void take(const Open& open, All& future);
  void take(const Open& open, Whole& future);
  void take_shares(const Open& open, const std::vector<Result<chaos::Answer>>& shares);
  bool is_right(const Open& open, const chaos::Answer& answer) const;
  bool is_right(const Open& open, const Tensor& answer) const;
  void settle(ChaosRequest request, std::size_t slot);
  void fail(ChaosRequest request, const Error& error, std::size_t slot);

  const Service& service_;
  const ChaosTally& tally_;
  const std::size_t replicas_;
  const std::size_t inflight_;
  const std::uint64_t client_;
  const std::size_t first_slot_;
  std::mt19937_64 random_;
  ChaosLedger ledger_;
  std::string first_error_;
  Ask ask_;
  Ask ask_idempotent_;
  Ask ask_all_;
  Ask ask_batch_;
  Ask ask_batch_idempotent_;
  Endpoint<Tensor(Tensor)> ask_tensor_;
  std::vector<Session> sessions_;
  std::deque<Open> open_;
  std::vector<Past> past_;
  std::uint64_t sent_ = 0;
  std::size_t next_slot_ = 0;
  ChaosKind kind_ = ChaosKind::plain;
  int burst_ = 0;  // calls that are still to be of that kind
  bool stuck_ = false;
};

}  // namespace forge::bench
