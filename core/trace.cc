#include "core/trace.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include "core/frames.h"

namespace forge::core {
namespace {

std::string quoted(const std::string& text) { return dump(Json(text)); }

/// In order, so that stretches nest whatever anybody said.
TraceSpan straightened(TraceSpan span) {
  span.over_ns = std::max(span.over_ns, span.called_ns);
  if (span.sent_ns == 0 || span.ended_ns == 0) span.started_ns = 0;
  if (span.started_ns == 0) span.ended_ns = 0;
  std::int64_t before = span.called_ns;
  for (std::int64_t* const time :
       {&span.left_ns, &span.sent_ns, &span.started_ns, &span.ended_ns}) {
    if (*time != 0) before = *time = std::clamp(*time, before, span.over_ns);
  }
  return span;
}

/// One of the calls of a batch stands for all of them.
struct Execution {
  const TraceSpan* span;
  std::uint32_t calls;

  /// Calls that are equal in this were executed as one.
  auto key() const {
    return std::tuple(span->service, span->replica, span->started_ns, span->ended_ns,
                      span->endpoint, span->incarnation);
  }
};

std::vector<Execution> executions_of(const std::vector<TraceSpan>& spans) {
  std::vector<Execution> all;
  for (const TraceSpan& span : spans) {
    if (span.started_ns != 0) all.push_back({&span, 1});
  }
  std::sort(all.begin(), all.end(),
            [](const Execution& a, const Execution& b) { return a.key() < b.key(); });
  std::vector<Execution> joined;
  for (const Execution& one : all) {
    if (joined.empty() || joined.back().key() != one.key()) {
      joined.push_back({one.span, 0});
    }
    Execution& execution = joined.back();
    ++execution.calls;
    // Some of its calls may be in no recording: the one that led it knows how many they were.
    if (one.span->batch > execution.span->batch) execution.span = one.span;
  }
  for (Execution& execution : joined)
    execution.calls = std::max(execution.calls, execution.span->batch);
  return joined;
}

class Renderer {
 public:
  explicit Renderer(const Trace& trace) : trace_(trace), base_ns_(trace.began_ns) {
    for (const TraceSpan& span : trace.spans) spans_.push_back(straightened(span));
    for (const TraceSpan& span : spans_) base_ns_ = std::min(base_ns_, span.called_ns);
  }

  std::string render() {
    out_ = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[";
    name("process_name", kController, kController, trace_.controller);
    for (std::size_t i = 0; i < trace_.services.size(); ++i) {
      const TraceService& service = trace_.services[i];
      name("process_name", process(i), process(i), service.name + " (" + service.actor + ")");
      quoted_services_.push_back(quoted(service.name));
      auto& endpoints = quoted_endpoints_.emplace_back();
      for (const std::string& endpoint : service.endpoints) endpoints.push_back(quoted(endpoint));
    }
    for (const TraceSpan& span : spans_) request(span);
    for (const Execution& one : executions_of(spans_)) execution(one);
    for (const Event& event : trace_.events) happened(event);
    out_ += "\n],\"otherData\":" + dump({{"program", "forge trace"},
                                         {"version", FORGE_VERSION},
                                         {"controller", trace_.controller},
                                         {"base_monotonic_ns", base_ns_},
                                         {"seconds", seconds()},
                                         {"requests", trace_.spans.size()},
                                         {"dropped_requests", trace_.dropped},
                                         {"events", trace_.events.size()},
                                         {"missed_events", trace_.missed_events}});
    return std::move(out_) + "}\n";
  }

 private:
  /// The format wants numbers of processes and threads. Each is given once, whatever it is for.
  static constexpr std::uint64_t kController = 1;
  static std::uint64_t process(std::size_t service) { return kController + 1 + service; }
  std::uint64_t new_number() { return process(trace_.services.size()) + tracks_++; }

  double seconds() const { return static_cast<double>(trace_.ended_ns - trace_.began_ns) / 1e9; }

  // ---- what all of them begin with

  void begin(char phase, std::string_view quoted_name, std::uint64_t pid, std::uint64_t tid) {
    out_ += std::exchange(first_, false) ? "\n{\"ph\":\"" : ",\n{\"ph\":\"";
    out_ += phase;
    out_ += "\",\"name\":";
    out_ += quoted_name;
    field("pid", pid);
    field("tid", tid);
  }
  void field(std::string_view name, std::uint64_t value) {
    ((out_ += ",\"") += name) += "\":";
    number(value);
  }
  void number(std::uint64_t value, int base = 10) {
    char digits[24];
    out_.append(digits, std::to_chars(digits, digits + sizeof(digits), value, base).ptr);
  }
  /// As text: it has more digits than a number of JavaScript.
  void id(const TraceSpan& span) {
    out_ += "\"0x";
    number(span.request, 16);
    out_ += '"';
  }
  /// Microseconds, as the format wants them, and none lost.
  void microseconds(std::string_view name, std::int64_t ns) {
    field(name, static_cast<std::uint64_t>(ns) / 1000);
    const std::string rest = std::to_string(1000 + ns % 1000);
    (out_ += '.') += std::string_view(rest).substr(1);
  }
  void at(std::int64_t ns) { microseconds("ts", ns - base_ns_); }
  void name(std::string_view what, std::uint64_t pid, std::uint64_t tid, const std::string& text) {
    begin('M', quoted(std::string(what)), pid, tid);
    out_ += ",\"args\":{\"name\":" + quoted(text) + "}}";
  }

  // ---- requests

  /// Ids are those of the service: another one has the same.
  void edge(char phase, std::string_view quoted_name, const TraceSpan& span, std::int64_t ns) {
    begin(phase, quoted_name, process(span.service), process(span.service));
    out_ += ",\"cat\":\"request\",\"id2\":{\"local\":";
    id(span);
    out_ += '}';
    at(ns);
  }
  void stretch(std::string_view quoted_name, const TraceSpan& span, std::int64_t& from,
               std::int64_t to) {
    edge('b', quoted_name, span, from);
    out_ += '}';
    edge('e', quoted_name, span, to);
    out_ += '}';
    from = to;
  }

  void request(const TraceSpan& span) {
    const std::string& endpoint = quoted_endpoints_[span.service][span.endpoint];
    edge('b', endpoint, span, span.called_ns);
    out_ += ",\"args\":{\"service\":" + quoted_services_[span.service];
    if (span.replica >= 0) field("replica", static_cast<std::uint64_t>(span.replica));
    if (span.incarnation != 0) field("incarnation", span.incarnation);
    field("attempt", span.attempt);
    ((out_ += ",\"outcome\":\"") += to_string(span.outcome)) += '"';
    if (!span.session.empty()) out_ += ",\"session\":" + quoted(span.session);
    out_ += "}}";
    std::int64_t here = span.called_ns;
    if (span.left_ns != 0) stretch("\"batch_wait\"", span, here, span.left_ns);
    stretch("\"queue\"", span, here, span.sent_ns != 0 ? span.sent_ns : span.over_ns);
    if (span.started_ns != 0) {
      stretch("\"transport\"", span, here, span.started_ns);
      stretch("\"execution\"", span, here, span.ended_ns);
      stretch("\"transport\"", span, here, span.over_ns);
    } else if (span.sent_ns != 0) {
      stretch("\"away\"", span, here, span.over_ns);
    }
    edge('e', endpoint, span, span.over_ns);
    out_ += '}';
  }

  // ---- replicas

  struct Lane {
    std::uint64_t tid;
    std::int64_t until_ns;
  };
  using Replica = std::pair<std::uint64_t, std::int32_t>;  // process, index

  /// What overlaps, as coroutines and the ranks of a mesh do, goes side by side.
  Lane& lane(const Replica& replica, std::int64_t from_ns) {
    std::vector<Lane>& lanes = lanes_[replica];
    for (Lane& one : lanes) {
      if (one.until_ns <= from_ns) return one;
    }
    Lane& fresh = lanes.emplace_back(Lane{new_number(), 0});
    const std::string beside = lanes.size() == 1 ? "" : " (" + std::to_string(lanes.size()) + ")";
    name("thread_name", replica.first, fresh.tid,
         "replica " + std::to_string(replica.second) + beside);
    begin('M', "\"thread_sort_index\"", replica.first, fresh.tid);
    out_ += ",\"args\":{\"sort_index\":" + std::to_string(replica.second) + "}}";
    return fresh;
  }

  void execution(const Execution& one) {
    const TraceSpan& span = *one.span;
    const std::uint64_t pid = process(span.service);
    Lane& where = lane({pid, span.replica}, span.started_ns);
    where.until_ns = span.ended_ns;
    begin('X', quoted_endpoints_[span.service][span.endpoint], pid, where.tid);
    at(span.started_ns);
    microseconds("dur", span.ended_ns - span.started_ns);
    out_ += ",\"args\":{\"request\":";
    id(span);
    field("calls", one.calls);
    field("incarnation", span.incarnation);
    out_ += "}}";
  }

  // ---- events

  void happened(const Event& event) {
    std::uint64_t pid = kController;
    for (std::size_t i = trace_.services.size(); i-- > 0;) {
      if (trace_.services[i].name == event.service) pid = process(i);
    }
    const bool of_replica = pid != kController && event.replica >= 0;
    std::uint64_t tid = pid;
    if (of_replica) {
      const auto found = lanes_.find({pid, event.replica});
      tid = found != lanes_.end() ? found->second.front().tid : lane({pid, event.replica}, 0).tid;
    }
    begin('i', quoted(event.kind), pid, tid);
    out_ += of_replica ? ",\"s\":\"t\"" : pid != kController ? ",\"s\":\"p\"" : ",\"s\":\"g\"";
    at(std::max(event.at_ns, base_ns_));
    out_ +=
        ",\"args\":" + dump({{"level", std::string(to_string(event.level))}, {"text", event.text}});
    out_ += '}';
  }

  const Trace& trace_;
  std::int64_t base_ns_;
  std::vector<TraceSpan> spans_;
  std::vector<std::string> quoted_services_;
  std::vector<std::vector<std::string>> quoted_endpoints_;  // by service
  std::map<Replica, std::vector<Lane>> lanes_;
  std::uint64_t tracks_ = 0;
  bool first_ = true;
  std::string out_;
};

}  // namespace

std::string render(const Trace& trace) { return Renderer(trace).render(); }

}  // namespace forge::core
