#include "bench/forge_bench/chaos_report.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "bench/forge_bench/report.h"
#include "bench/forge_bench/text.h"

namespace forge::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kFirstColumn = 20;

std::string number(std::uint64_t value) { return with_commas(value); }
std::string number_or_dash(std::uint64_t value) { return value == 0 ? "-" : with_commas(value); }

/// Outcomes that came at all: the table is as wide as it must be.
std::vector<ChaosOutcome> outcomes_of(const ChaosLedger& ledger) {
  std::vector<ChaosOutcome> result;
  for (std::size_t i = 0; i < kChaosOutcomes; ++i) {
    const auto outcome = static_cast<ChaosOutcome>(i);
    const bool always = outcome == ChaosOutcome::ok || outcome == ChaosOutcome::worker_lost ||
                        outcome == ChaosOutcome::lost;
    if (always || ledger.count(outcome) > 0) result.push_back(outcome);
  }
  return result;
}

std::size_t width_of(ChaosOutcome outcome) {
  return std::max<std::size_t>(11, std::string(to_string(outcome)).size() + 2);
}

std::string table(const ChaosLedger& ledger) {
  const std::vector<ChaosOutcome> outcomes = outcomes_of(ledger);
  constexpr std::array<const char*, ChaosLedger::kExecutionColumns> kTimes = {"0", "1", "2", "3",
                                                                              ">3"};
  std::string out = left("requests", kFirstColumn);
  for (const ChaosOutcome outcome : outcomes) out += right(to_string(outcome), width_of(outcome));
  out += "   executed:";
  for (const char* times : kTimes) out += right(times, times == kTimes[1] ? 11 : 8);
  out += "\n";
  for (std::size_t i = 0; i < kChaosKinds; ++i) {
    const auto kind = static_cast<ChaosKind>(i);
    out += left(to_string(kind), kFirstColumn);
    for (const ChaosOutcome outcome : outcomes)
      out += right(number_or_dash(ledger.count(kind, outcome)), width_of(outcome));
    out += std::string(12, ' ');
    for (std::size_t times = 0; times < kTimes.size(); ++times)
      out += right(number_or_dash(ledger.executed(kind, times)), times == 1 ? 11 : 8);
    out += "\n";
  }
  out += left("all", kFirstColumn);
  for (const ChaosOutcome outcome : outcomes)
    out += right(number_or_dash(ledger.count(outcome)), width_of(outcome));
  return out + "\n";
}

std::string faults_line(const ChaosOptions& options, const ChaosRun& run) {
  std::string out;
  for (const chaos::Fault fault : options.faults) {
    out += (out.empty() ? "" : ", ") +
           number(run.faults.committed.at(static_cast<std::size_t>(fault))) + " " +
           to_string(fault);
  }
  if (has_fault(options, chaos::Fault::stop)) {
    out += " (" + number(run.faults.resumed) + " let go on, " + number(run.faults.replaced) +
           " replaced)";
  }
  return out + "; " + number(run.end.deaths) + " deaths";
}

std::string leaks_line(const Held& before, const Held& after) {
  return (after.within(before) ? "none: " : "LEAKED: ") + describe(before) + ", then " +
         describe(after);
}

std::string violations(const ChaosOptions& options, const ChaosRun& run) {
  std::string out;
  for (const ChaosLedger::Violation& violation : run.ledger.violations()) {
    std::string what = violation.what;
    if (violation.number != 0)
      what.insert(0, text("request %llu: ", static_cast<unsigned long long>(violation.number)));
    out += labelled("VIOLATION", what);
  }
  if (!run.first_error.empty()) out += labelled("its error", run.first_error);
  const std::uint64_t shown = run.ledger.violations().size();
  if (run.ledger.violated() > shown)
    out += labelled("", number(run.ledger.violated() - shown) + " more");
  return out + labelled("again",
                        text("forge-bench chaos --seed %llu --faults %s --kill-every %d,%d "
                             "--clients %d --inflight %d --replicas %d --duration %g%s",
                             static_cast<unsigned long long>(options.seed),
                             faults_text(options.faults).c_str(), options.every_ms.first,
                             options.every_ms.second, options.clients, options.inflight,
                             options.replicas, options.duration_s, service_text(options).c_str()));
}

/// Whether it stays what it was: the last sixth of the run beside the first.
std::string pace_line(const ChaosRun& run) {
  if (run.sixths.size() < 2) return "the run was too short";
  const auto rate = [](const ChaosSixth& sixth) {
    return static_cast<double>(sixth.answers) / sixth.seconds;
  };
  const ChaosSixth& first = run.sixths.front();
  const ChaosSixth& last = run.sixths.back();
  return format_rate(rate(first)) + " in the first sixth, " + format_rate(rate(last)) +
         text(" in the last (%.2f ×); ", rate(last) / rate(first)) + format_bytes(first.resident) +
         " of memory, then " + format_bytes(last.resident) +
         text("; %zu descriptors, then %zu", first.held.descriptors, last.held.descriptors);
}

Json sixths_json(const ChaosRun& run) {
  Json json = Json::array();
  for (const ChaosSixth& sixth : run.sixths) {
    json.push_back({{"answers", sixth.answers},
                    {"seconds", sixth.seconds},
                    {"resident_bytes", sixth.resident},
                    {"descriptors", sixth.held.descriptors},
                    {"segments", sixth.held.segments},
                    {"processes", sixth.held.processes}});
  }
  return json;
}

Json held_json(const Held& held) {
  return {{"descriptors", held.descriptors},
          {"segments", held.segments},
          {"processes", held.processes},
          {"arena_free", held.arena}};
}

}  // namespace

std::string to_text(const ChaosOptions& options, const ChaosRun& run) {
  const ChaosLedger& ledger = run.ledger;
  std::string out = labelled(
      "chaos",
      text("%d replicas, %d clients with %d in flight, %s every %d to %d ms, %g s, seed %llu",
           options.replicas, options.clients, options.inflight, faults_text(options.faults).c_str(),
           options.every_ms.first, options.every_ms.second, options.duration_s,
           static_cast<unsigned long long>(options.seed)));
  out += labelled("machine", machine_line()) + "\n" + table(ledger) + "\n";
  out += labelled("faults", faults_line(options, run));
  out += labelled("lost", number(ledger.lost()) + " of " + number(ledger.requests()) + " requests");
  out += labelled("doubled", number(ledger.doubled()) + " requests");
  out += labelled("executions", number(ledger.executions_lost()) +
                                    " were lost with their worker; counted by call or batch " +
                                    number(ledger.losses()) + ", at most " +
                                    number(ledger.most_losses(run.end)) + " can be");
  out += labelled("idempotent", number(ledger.given_up()) + " requests ended with an error");
  out += labelled("order", number(run.out_of_order) + " calls of sessions came too late");
  out += labelled("engine", number(run.counters.replays) + " replays, " +
                                number(run.counters.retries) + " retries, " +
                                number(run.counters.refused) + " answers refused, " +
                                number(run.counters.violations) + " writers of garbage found");
  const Histogram& recovery = run.faults.recovery;
  out += labelled("recovery", "p50 " + format_ns(recovery.percentile(0.5)) + ", p99 " +
                                  format_ns(recovery.percentile(0.99)) + ", max " +
                                  format_ns(recovery.max()) + ", from the fault to healthy again");
  out += labelled("leaks", leaks_line(run.before, run.after));
  out +=
      labelled("", "without the controller " + leaks_line(run.process_before, run.process_after));
  out += labelled("cpu",
                  text("%.2f cores for controller, clients and their checks; ", run.core_share) +
                      format_rate(static_cast<double>(ledger.requests()) / run.seconds));
  out += labelled("pace", pace_line(run));
  if (!ledger.holds()) out += violations(options, run);
  return out +
         (ledger.holds()
              ? "every promise kept: yes, for all " + number(ledger.requests()) + " requests\n"
              : "every promise kept: NO, " + number(ledger.violated()) + " violations\n");
}

Json to_json(const ChaosOptions& options, const ChaosRun& run) {
  const ChaosLedger& ledger = run.ledger;
  Json json = json_heading("chaos");
  json["options"] = {{"replicas", options.replicas},
                     {"clients", options.clients},
                     {"inflight", options.inflight},
                     {"duration_s", options.duration_s},
                     {"faults", faults_text(options.faults)},
                     {"kill_every_ms", {options.every_ms.first, options.every_ms.second}},
                     {"seed", options.seed}};
  json["requests"] = ledger.requests();
  for (std::size_t i = 0; i < kChaosKinds; ++i) {
    const auto kind = static_cast<ChaosKind>(i);
    Json& of_kind = json["kinds"][to_string(kind)];
    of_kind["requests"] = ledger.requests(kind);
    for (std::size_t j = 0; j < kChaosOutcomes; ++j) {
      const auto outcome = static_cast<ChaosOutcome>(j);
      of_kind["outcomes"][to_string(outcome)] = ledger.count(kind, outcome);
    }
    for (std::size_t times = 0; times < ChaosLedger::kExecutionColumns; ++times)
      of_kind["executed"].push_back(ledger.executed(kind, times));
  }
  for (const chaos::Fault fault : options.faults)
    json["faults"][to_string(fault)] = run.faults.committed.at(static_cast<std::size_t>(fault));
  json["stopped"] = {{"resumed", run.faults.resumed}, {"replaced", run.faults.replaced}};
  json["deaths"] = run.end.deaths;
  json["lost"] = ledger.lost();
  json["doubled"] = ledger.doubled();
  json["executions_lost"] = ledger.executions_lost();
  json["losses"] = ledger.losses();
  json["most_losses"] = ledger.most_losses(run.end);
  json["idempotent_given_up"] = ledger.given_up();
  json["out_of_order"] = run.out_of_order;
  json["replays"] = run.counters.replays;
  json["retries"] = run.counters.retries;
  json["refused"] = run.counters.refused;
  json["violations_seen_by_engine"] = run.counters.violations;
  json["recovery_ns"] = {{"count", run.faults.recovery.count()},
                         {"p50", run.faults.recovery.percentile(0.5)},
                         {"p99", run.faults.recovery.percentile(0.99)},
                         {"max", run.faults.recovery.max()}};
  json["held"] = {{"before", held_json(run.before)},
                  {"after", held_json(run.after)},
                  {"process_before", held_json(run.process_before)},
                  {"process_after", held_json(run.process_after)}};
  json["held_while_idle"] = run.held_while_idle;
  json["seconds"] = run.seconds;
  json["sixths"] = sixths_json(run);
  json["core_share"] = run.core_share;
  json["violations"] = Json::array();
  for (const ChaosLedger::Violation& violation : ledger.violations())
    json["violations"].push_back({{"what", violation.what}, {"request", violation.number}});
  json["violated"] = ledger.violated();
  json["first_error"] = run.first_error;
  json["holds"] = ledger.holds();
  return json;
}

}  // namespace forge::bench
