// What a recording looks like to those who read the Trace Event Format, what is kept of it, and how it
// is handed over.
#include "core/trace.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <thread>

#include "core/frames.h"
#include "core/text_segment.h"
#include "core/trace_recorder.h"

namespace forge::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr std::int64_t kBegan = 5'000'000'000;

TraceSpan answered(std::int64_t called, std::int64_t sent, std::int64_t started, std::int64_t ended,
                   std::int64_t over) {
  TraceSpan span;
  span.request = 1;
  span.attempt = 1;
  span.replica = 0;
  span.incarnation = 1;
  span.called_ns = kBegan + called;
  span.sent_ns = kBegan + sent;
  span.started_ns = kBegan + started;
  span.ended_ns = kBegan + ended;
  span.over_ns = kBegan + over;
  return span;
}

Trace trace_of(std::vector<TraceSpan> spans) {
  Trace trace;
  trace.controller = "job (pid 7)";
  trace.began_ns = kBegan;
  trace.ended_ns = kBegan + 1'500'000'000;
  trace.services = {{"echo", "Echo", {"scalar", "bytes"}}, {"digits", "Digits", {"classify"}}};
  trace.spans = std::move(spans);
  return trace;
}

class Rendered {
 public:
  explicit Rendered(const Trace& trace) : json_(Json::parse(render(trace))) {}
  const Json& other() const { return json_["otherData"]; }

  std::vector<Json> of(const std::string& phase) const {
    std::vector<Json> found;
    for (const Json& event : json_["traceEvents"]) {
      if (event["ph"] == phase) found.push_back(event);
    }
    return found;
  }
  /// Of asynchronous events, in order, "name from+duration", the inner ones in front.
  std::vector<std::string> stretches() const {
    std::vector<std::string> found;
    std::map<std::pair<Json, Json>, std::vector<Json>> open;  // by process and id
    for (const Json& event : json_["traceEvents"]) {
      if (event["ph"] != "b" && event["ph"] != "e") continue;
      auto& stack = open[{event["pid"], event["id2"]["local"]}];
      if (event["ph"] == "b") {
        stack.push_back(event);
        continue;
      }
      EXPECT_FALSE(stack.empty());
      EXPECT_EQ(stack.back()["name"], event["name"]);
      found.push_back(line(stack.back(), event["ts"].get<double>() - ts(stack.back())));
      stack.pop_back();
    }
    for (const auto& [id, stack] : open) EXPECT_TRUE(stack.empty());
    return found;
  }
  /// Of executions: "track name from+duration".
  std::vector<std::string> executions() const {
    std::vector<std::string> found;
    for (const Json& event : of("X"))
      found.push_back(track(event) + " " + line(event, event["dur"].get<double>()));
    return found;
  }
  /// What the process, or the thread, of an event is called.
  std::string track(const Json& event, const char* kind = "thread_name") const {
    for (const Json& named : of("M")) {
      if (named["name"] == kind && named["pid"] == event["pid"] &&
          (kind == std::string("process_name") || named["tid"] == event["tid"]))
        return named["args"]["name"];
    }
    return "?";
  }

 private:
  static double ts(const Json& event) { return event["ts"].get<double>(); }
  static std::string line(const Json& event, double duration) {
    char text[100];
    std::snprintf(text, sizeof(text), "%s %g+%g", event["name"].get<std::string>().c_str(),
                  ts(event), duration);
    return text;
  }
  Json json_;
};

TEST(Trace, AnEmptyOneSaysWhoseItIs) {
  const Rendered seen(trace_of({}));
  EXPECT_EQ(seen.of("M").size(), 3U);
  EXPECT_THAT(seen.of("b"), IsEmpty());
  EXPECT_EQ(seen.other()["controller"], "job (pid 7)");
  EXPECT_EQ(seen.other()["seconds"], 1.5);
  EXPECT_EQ(seen.other()["base_monotonic_ns"], kBegan);
  EXPECT_EQ(seen.other()["requests"], 0);
}

TEST(Trace, ARequestHasTheStretchesOfItsWay) {
  const Rendered seen(trace_of({answered(1'000, 3'500, 4'000, 9'001, 10'000)}));
  EXPECT_THAT(seen.stretches(), ElementsAre("queue 1+2.5", "transport 3.5+0.5", "execution 4+5.001",
                                            "transport 9.001+0.999", "scalar 1+9"));
  const Json request = seen.of("b").front();
  EXPECT_EQ(request["name"], "scalar");
  EXPECT_EQ(request["cat"], "request");
  EXPECT_EQ(request["id2"]["local"], "0x1");
  EXPECT_EQ(seen.track(request, "process_name"), "echo (Echo)");
  const Json expected{
      {"service", "echo"}, {"replica", 0}, {"incarnation", 1}, {"attempt", 1}, {"outcome", "ok"}};
  EXPECT_EQ(request["args"], expected);
  EXPECT_THAT(seen.executions(), ElementsAre("replica 0 scalar 4+5.001"));
}

TEST(Trace, StretchesAreThoseThatHappened) {
  struct Case {
    const char* what;
    std::int64_t left, sent, started, ended, over;  // called at 0
    std::vector<std::string> stretches;
  };
  const Case cases[] = {
      {"a batch",
       10,
       20,
       30,
       40,
       50,
       {"batch_wait 0+10", "queue 10+10", "transport 20+10", "execution 30+10", "transport 40+10"}},
      {"no times of the worker's", 0, 20, 0, 0, 50, {"queue 0+20", "away 20+30"}},
      {"half of them", 0, 20, 30, 0, 50, {"queue 0+20", "away 20+30"}},
      {"never sent", 0, 0, 0, 0, 50, {"queue 0+50"}},
      {"never sent, in a batch", 10, 0, 0, 0, 50, {"batch_wait 0+10", "queue 10+40"}},
      {"at once", 0, 0, 30, 40, 50, {"queue 0+50"}},
      {"a worker that began too soon",
       0,
       20,
       5,
       40,
       50,
       {"queue 0+20", "transport 20+0", "execution 20+20", "transport 40+10"}},
      {"a worker that ended too late",
       0,
       20,
       30,
       9'000,
       50,
       {"queue 0+20", "transport 20+10", "execution 30+20", "transport 50+0"}},
      {"a worker without sense",
       0,
       20,
       INT64_MAX / 2'000,
       -7,
       50,
       {"queue 0+20", "transport 20+30", "execution 50+0", "transport 50+0"}},
      {"over before it began",
       0,
       20,
       30,
       40,
       -10,
       {"queue 0+0", "transport 0+0", "execution 0+0", "transport 0+0"}},
  };
  for (const Case& one : cases) {
    const auto us = [](std::int64_t at) { return at == 0 ? 0 : kBegan + 1'000 * at; };
    TraceSpan span = answered(0, 0, 0, 0, 0);
    span.left_ns = us(one.left);
    span.sent_ns = us(one.sent);
    span.started_ns = us(one.started);
    span.ended_ns = us(one.ended);
    span.over_ns = us(one.over);
    auto stretches = Rendered(trace_of({span})).stretches();
    EXPECT_THAT(stretches.back(), HasSubstr("scalar")) << one.what;
    stretches.pop_back();
    EXPECT_EQ(stretches, one.stretches) << one.what;
  }
}

TEST(Trace, SaysHowItEndedAndWhoseItWas) {
  TraceSpan span = answered(0, 1, 2, 3, 4);
  span.outcome = ErrorCode::worker_lost;
  span.session = "a \"name\"\n\xff";
  span.attempt = 3;
  span.incarnation = 9;
  TraceSpan refused;
  refused.request = 0xabcdef0123456789;
  refused.outcome = ErrorCode::deadline_exceeded;
  refused.called_ns = kBegan;
  refused.over_ns = kBegan + 5;
  const Rendered seen(trace_of({span, refused}));
  const Json lost = seen.of("b").front()["args"];
  EXPECT_EQ(lost["outcome"], "worker_lost");
  EXPECT_EQ(lost["attempt"], 3);
  EXPECT_EQ(lost["incarnation"], 9);
  EXPECT_THAT(lost["session"].get<std::string>(), HasSubstr("a \"name\"\n"));
  const Json late = seen.of("b")[5];
  EXPECT_EQ(late["id2"]["local"], "0xabcdef0123456789");
  EXPECT_EQ(late["args"],
            Json({{"service", "echo"}, {"attempt", 0}, {"outcome", "deadline_exceeded"}}));
}

TEST(Trace, ABatchIsExecutedOnce) {
  std::vector<TraceSpan> spans(4, answered(0, 1'000, 2'000, 3'000, 4'000));
  for (std::size_t i = 0; i < spans.size(); ++i) {
    spans[i].request = i + 1;
    spans[i].batch = i == 2 ? 4 : 0;
  }
  Rendered seen(trace_of(spans));
  EXPECT_THAT(seen.executions(), ElementsAre("replica 0 scalar 2+1"));
  EXPECT_EQ(seen.of("X")[0]["args"]["calls"], 4);
  EXPECT_EQ(seen.of("X")[0]["args"]["request"], "0x3") << "the one that led it";
  spans.resize(3);  // the others had been given up
  EXPECT_EQ(Rendered(trace_of(spans)).of("X")[0]["args"]["calls"], 4);
  spans.resize(2);
  EXPECT_EQ(Rendered(trace_of(spans)).of("X")[0]["args"]["calls"], 2) << "as far as anybody knows";

  spans[1] = spans[0];
  spans[1].endpoint = 1;
  EXPECT_EQ(Rendered(trace_of(spans)).of("X").size(), 2U) << "another endpoint's is another one";
}

TEST(Trace, ExecutionsOfAReplicaDoNotOverlapOnATrack) {
  std::vector<TraceSpan> spans{
      answered(0, 0, 10'000, 30'000, 90'000), answered(0, 0, 40'000, 50'000, 90'000),
      answered(0, 0, 20'000, 40'000, 90'000), answered(0, 0, 25'000, 45'000, 90'000),
      answered(0, 0, 15'000, 16'000, 90'000)};
  spans[4].replica = 1;
  spans.push_back(spans[0]);
  spans.back().service = 1;
  const Rendered seen(trace_of(spans));
  EXPECT_THAT(seen.executions(),
              UnorderedElementsAre("replica 0 scalar 10+20", "replica 0 scalar 40+10",
                                   "replica 0 (2) scalar 20+20", "replica 0 (3) scalar 25+20",
                                   "replica 1 scalar 15+1", "replica 0 classify 10+20"));
  std::map<Json, Json> process_of;  // threads have numbers of their own
  for (const Json& execution : seen.of("X")) {
    const auto [known, fresh] = process_of.try_emplace(execution["tid"], execution["pid"]);
    EXPECT_EQ(known->second, execution["pid"]);
  }
  EXPECT_EQ(process_of.size(), 5U);
}

TEST(Trace, EventsAreWhereTheyHappened) {
  Trace trace = trace_of({answered(0, 1'000, 2'000, 3'000, 4'000)});
  trace.events = {
      {LogLevel::warning, "died", "echo", 0, "killed by \"SIGKILL\"", 1, kBegan + 2'500},
      {LogLevel::info, "up", "digits", 2, "is up", 2, kBegan + 2'600},
      {LogLevel::info, "scaled", "digits", -1, "2 to 3", 3, kBegan + 2'700},
      {LogLevel::error, "log", "", -1, "no disk", 4, kBegan - 1},
      {LogLevel::info, "started", "nobody", 1, "it has gone", 5, kBegan + 2'900}};
  trace.missed_events = 3;
  const Rendered seen(trace);
  const auto events = seen.of("i");
  ASSERT_EQ(events.size(), 5U);
  EXPECT_EQ(events[0]["s"], "t");
  EXPECT_EQ(events[0]["ts"], 2.5);
  EXPECT_EQ(events[0]["tid"], seen.of("X")[0]["tid"]);
  EXPECT_EQ(events[0]["args"], Json({{"level", "warning"}, {"text", "killed by \"SIGKILL\""}}));
  EXPECT_EQ(seen.track(events[1]), "replica 2") << "though it has executed nothing";
  EXPECT_EQ(events[2]["s"], "p");
  EXPECT_EQ(seen.track(events[2], "process_name"), "digits (Digits)");
  EXPECT_EQ(events[3]["s"], "g");
  EXPECT_EQ(events[3]["ts"], 0.0);
  EXPECT_EQ(seen.track(events[4], "process_name"), "job (pid 7)");
  EXPECT_EQ(seen.other()["missed_events"], 3);
}

TEST(Trace, TimeBeginsWithTheFirstCall) {
  const Rendered seen(trace_of(
      {answered(5'000, 6'000, 7'000, 8'000, 9'000), answered(-2'000, 6'000, 7'500, 8'000, 9'000)}));
  EXPECT_EQ(seen.of("b")[0]["ts"], 7.0);
  EXPECT_EQ(seen.of("b")[5]["ts"], 0.0);
  EXPECT_EQ(seen.other()["base_monotonic_ns"], kBegan - 2'000);
}

// ---- recorder

TEST(TraceRecorder, KeepsSoManyAndCountsTheOthers) {
  TraceRecorder recorder(3);
  EXPECT_EQ(recorder.add(TraceService{"a", "A", {}}), 0U);
  EXPECT_EQ(recorder.add(TraceService{"b", "B", {}}), 1U);
  for (int i = 0; i < 5; ++i) recorder.add(answered(i, i, i, i, i));
  const Trace trace = recorder.take();
  EXPECT_EQ(trace.spans.size(), 3U);
  EXPECT_EQ(trace.spans[2].called_ns, kBegan + 2) << "the first ones";
  EXPECT_EQ(trace.dropped, 2U);
  EXPECT_EQ(trace.services[1].name, "b");
  recorder.add(answered(9, 9, 9, 9, 9));
  EXPECT_EQ(recorder.take().spans.capacity(), 0U) << "it is closed, and holds no memory";
}

TEST(TraceRecorder, TakesFromManyThreads) {
  TraceRecorder recorder(1'000);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 500; ++n) recorder.add(answered(n, n, n, n, n));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Trace trace = recorder.take();
  EXPECT_EQ(trace.spans.size(), 1'000U);
  EXPECT_EQ(trace.dropped, 1'000U);
}

// ---- handing it over

shm::FileDescriptor copy_of(int fd) { return shm::FileDescriptor(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

TEST(TextSegment, IsReadAsItWasWritten) {
  for (const std::size_t size : {1UL, 4'095UL, 4'096UL, 100'000UL}) {
    const std::string text(size, 'x');
    const auto segment = std::move(share_text("forge:test", text)).value();
    EXPECT_EQ(std::move(shared_text(copy_of(segment.fd()), size)).value(), text);
  }
}

TEST(TextSegment, RefusesWhatIsNotAsLongOrMayShrink) {
  const auto segment = std::move(share_text("forge:test", "text")).value();
  EXPECT_THROW(shared_text(copy_of(segment.fd()), 4'097).value(), InvalidArgument);
  EXPECT_THROW(shared_text({}, 4).value(), InvalidArgument);
  const shm::FileDescriptor open(::memfd_create("forge:test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(open.get(), 4'096), 0);
  EXPECT_THROW(shared_text(copy_of(open.get()), 4).value(), InvalidArgument);
}

}  // namespace
}  // namespace forge::core
