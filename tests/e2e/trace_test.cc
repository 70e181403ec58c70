// A recording of a running controller, taken over its socket: what is in it, when it ends, and what it
// leaves behind.
#include <malloc.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "control_client.h"
#include "core/text_segment.h"
#include "support.h"

namespace forge::e2e {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

/// A request as the trace has it.
struct Request {
  std::string name;
  Json args;
  double begin = 0;
  double end = -1;
  std::vector<std::pair<std::string, double>> stretches;  // below it, and how long each takes
};

/// Takes a trace apart, and checks what must hold for each.
class Seen {
 public:
  explicit Seen(const std::string& text) : json(Json::parse(text)) {
    std::map<std::pair<Json, Json>, std::vector<const Json*>> open;
    for (const Json& event : json["traceEvents"]) {
      if (event["ph"] == "X") executions.push_back(event);
      if (event["ph"] == "i") events.push_back(event["name"]);
      if (event["ph"] == "M" && event["name"] != "thread_sort_index")
        names.push_back(event["args"]["name"]);
      if (event["ph"] == "b" || event["ph"] == "e")
        edge(event, open[{event["pid"], event["id2"]["local"]}]);
    }
    for (const auto& [id, stack] : open) EXPECT_TRUE(stack.empty());
    for (const Request& request : requests) {
      double sum = 0;
      for (const auto& [name, time] : request.stretches) sum += time;
      EXPECT_NEAR(sum, request.end - request.begin, 0.01) << request.name;
    }
    check_tracks();
  }

  std::size_t count(const std::string& service, const std::string& outcome) const {
    return static_cast<std::size_t>(
        std::count_if(requests.begin(), requests.end(), [&](const Request& request) {
          return request.args["service"] == service && request.args["outcome"] == outcome;
        }));
  }
  const Request& first(const std::string& name) const {
    const auto found = std::find_if(requests.begin(), requests.end(),
                                    [&](const Request& request) { return request.name == name; });
    if (found == requests.end()) throw std::runtime_error("there is no request of " + name);
    return *found;
  }

  Json json;
  std::vector<Request> requests;
  std::vector<Json> executions;
  std::vector<std::string> events;
  std::vector<std::string> names;

 private:
  static double ts(const Json& event) { return event["ts"].get<double>(); }

  void edge(const Json& event, std::vector<const Json*>& stack) {
    if (event["ph"] == "b") {
      if (stack.empty()) requests.push_back({event["name"], event["args"], ts(event), -1, {}});
      stack.push_back(&event);
      return;
    }
    ASSERT_FALSE(stack.empty()) << event;
    EXPECT_EQ(stack.back()->at("name"), event["name"]);
    const double time = ts(event) - ts(*stack.back());
    EXPECT_GE(time, 0) << event;
    stack.pop_back();
    if (stack.empty()) {
      requests.back().end = ts(event);
    } else {
      EXPECT_EQ(stack.size(), 1U);
      requests.back().stretches.emplace_back(event["name"], time);
    }
  }

  /// What viewers cannot draw: one execution that ends within another.
  void check_tracks() {
    std::map<Json, std::vector<std::pair<double, double>>> tracks;
    for (const Json& one : executions)
      tracks[one["tid"]].emplace_back(ts(one), ts(one) + one["dur"].get<double>());
    for (auto& [tid, spans] : tracks) {
      std::sort(spans.begin(), spans.end());
      for (std::size_t i = 1; i < spans.size(); ++i)
        EXPECT_LE(spans[i - 1].second, spans[i].first + 0.001);
    }
  }
};

class TraceTest : public ::testing::Test {
 protected:
  Service serve(const std::string& plugin, const std::string& actor, Options options) {
    return controller->load(plugin_path(plugin))
        .actor(actor)
        .options(std::move(options))
        .as_service();
  }
  /// Begins a recording that goes on until the controller ends, and somebody who waits for it.
  Client begin() {
    Client client(runtime.socket());
    const Json answer = client.ask({{"command", "trace"}, {"seconds", 600}});
    EXPECT_EQ(answer["ok"], true) << answer;
    EXPECT_EQ(answer["progress"], "recording");
    return client;
  }
  static Seen trace_of(Client& client, Json answer) {
    while (answer.contains("done") && !answer["done"].get<bool>())
      answer = client.next().value_or(Json::object());
    EXPECT_EQ(answer["ok"], true) << answer;
    const std::size_t size = answer.value("bytes", std::size_t{0});
    Seen seen(std::move(core::shared_text(client.take_fd(), size)).value());
    EXPECT_EQ(seen.requests.size(), answer["requests"]);
    EXPECT_EQ(seen.events.size(), answer["events"]);
    return seen;
  }
  /// Ends the controller and hands out what was recorded.
  Seen end(Client& client) {
    controller->shutdown();
    return trace_of(client, client.next().value_or(Json::object()));
  }
  static std::size_t total(const Service& service) {
    std::size_t sum = 0;
    for (const auto& [idx, replica] : service.get_metrics_summary().replicas)
      sum += replica.total_requests;
    return sum;
  }

  Runtime runtime;
  std::optional<Controller> controller{std::in_place, quiet()};
};

TEST_F(TraceTest, HasEveryRequestWithAllOfItsWay) {
  const Service early = serve("faulty", "Faulty", {.num_replicas = 2, .name = "early"});
  Client client = begin();
  const Service late = serve("batches", "Batches", {.name = "late"});  // started meanwhile

  const auto echo = early.endpoint<std::int64_t(std::int64_t)>("echo");
  for (int i = 0; i < 50; ++i) value_of(echo.route(i));
  EXPECT_EQ(value_of(echo.fanout(1)).size(), 2U);
  value_of(echo.with({.sess_id = "mine"}).route(7));
  EXPECT_EQ(
      outcome(await(early.endpoint<void(const std::string&)>("throw_error").route("on purpose"))),
      "actor_error");
  EXPECT_EQ(outcome(await(
                early.endpoint<void(std::int64_t)>("sleep_ms").with({.timeout = 20ms}).route(200))),
            "deadline_exceeded");
  EXPECT_EQ(outcome(await(early.endpoint<void()>("abort").route())), "worker_lost");
  ASSERT_TRUE(wait_until([&] { return all_healthy(early); }));
  value_of(early.endpoint<void(std::int64_t)>("sleep_ms").route(5));

  std::vector<Future<std::int64_t>> batch;
  const auto doubled = late.endpoint<std::int64_t(std::int64_t)>("patient");
  for (int i = 0; i < 8; ++i) batch.push_back(doubled.route(i));
  EXPECT_EQ(outcomes(batch), (Outcomes{{"ok", 8}}));
  const std::size_t early_total = total(early);
  const std::size_t late_total = total(late);
  const Seen seen = end(client);

  EXPECT_EQ(seen.count("early", "ok"), 54U);
  EXPECT_EQ(seen.count("early", "actor_error"), 1U);
  EXPECT_EQ(seen.count("early", "deadline_exceeded"), 1U);
  EXPECT_EQ(seen.count("early", "worker_lost"), 1U);
  EXPECT_EQ(seen.count("late", "ok"), 8U);
  EXPECT_EQ(early_total, 57U);
  EXPECT_EQ(seen.requests.size(), early_total + late_total) << "as the metrics count them";
  EXPECT_EQ(seen.json["otherData"]["dropped_requests"], 0);

  std::vector<std::string> stretches;
  for (const auto& stretch : seen.first("echo").stretches) stretches.push_back(stretch.first);
  EXPECT_THAT(stretches, ElementsAre("queue", "transport", "execution", "transport"));
  stretches.clear();
  for (const auto& stretch : seen.first("patient").stretches) stretches.push_back(stretch.first);
  EXPECT_THAT(stretches, ElementsAre("batch_wait", "queue", "transport", "execution", "transport"));
  stretches.clear();
  for (const auto& stretch : seen.first("abort").stretches) stretches.push_back(stretch.first);
  EXPECT_THAT(stretches, ElementsAre("queue", "away"));
  EXPECT_EQ(seen.first("abort").args["attempt"], 1);

  const auto slept = std::find_if(seen.requests.rbegin(), seen.requests.rend(),
                                  [](const Request& one) { return one.name == "sleep_ms"; });
  ASSERT_NE(slept, seen.requests.rend());
  EXPECT_GE(slept->stretches.at(2).second, 5'000) << "microseconds, in execution";
  EXPECT_EQ(std::count_if(seen.requests.begin(), seen.requests.end(),
                          [](const Request& one) { return one.args.contains("session"); }),
            1);

  // Two batches of four, and each call that was answered by itself.
  std::map<std::string, std::map<int, int>> sizes;
  for (const Json& one : seen.executions) ++sizes[one["name"]][one["args"]["calls"].get<int>()];
  EXPECT_EQ(sizes["patient"], (std::map<int, int>{{4, 2}}));
  EXPECT_EQ(sizes["echo"], (std::map<int, int>{{1, 53}}));
  EXPECT_THAT(seen.events, IsSupersetOf({"died", "restarting", "up", "started"}));
  EXPECT_THAT(seen.names,
              IsSupersetOf({"early (Faulty)", "late (Batches)", "replica 0", "replica 1"}));
}

TEST_F(TraceTest, TimesAllCallsHoweverManyThereAre) {
  const Service service = serve("echo", "Echo", {.name = "fast"});
  const auto scalar = service.endpoint<std::int64_t(std::int64_t)>("scalar");
  std::vector<Future<std::int64_t>> calls;
  const auto send = [&](int count) {
    for (int i = 0; i < count; ++i) {
      calls.push_back(scalar.route(i));
      if (calls.size() < 100) continue;
      EXPECT_EQ(outcomes(calls), (Outcomes{{"ok", 100}}));
    }
  };
  send(10'000);  // so many that only some of them are timed, if the machine is fast
  Client client = begin();
  send(10'000);
  EXPECT_EQ(end(client).count("fast", "ok"), 10'000U);
}

TEST_F(TraceTest, EndsByItselfWhenItsTimeIsOver) {
  const Service service = serve("faulty", "Faulty", {});
  Client client(runtime.socket());
  const Seen seen =
      trace_of(client, client.ask({{"command", "trace"}, {"seconds", 0.05}, {"id", 3}}));
  EXPECT_GE(seen.json["otherData"]["seconds"], 0.05);
  EXPECT_EQ(seen.requests.size(), 0U);
  EXPECT_EQ(seen.names.at(1), "Faulty (Faulty)");
  // And once more, on the same connection.
  trace_of(client, client.ask({{"command", "trace"}, {"seconds", 0.01}}));
}

TEST_F(TraceTest, IsOneAtATimeAndEndsWithWhoWaitsForIt) {
  const Service service = serve("faulty", "Faulty", {});
  const auto mapped = [] { return ::mallinfo2().hblkhd; };
  const std::size_t before = mapped();
  std::optional<Client> first(begin());
  Client second(runtime.socket());
  const Json request{{"command", "trace"}, {"seconds", 0.01}};
  const Json refused = second.ask(request);
  EXPECT_EQ(refused["ok"], false);
  EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("try again"));
  first.reset();
  EXPECT_TRUE(wait_until([&] { return second.finish(request)["ok"] == true; }));
  EXPECT_TRUE(wait_until([&] { return mapped() <= before; })) << "room for spans is still held";
}

TEST_F(TraceTest, RefusesTimesThatAreNone) {
  Client client(runtime.socket());
  for (const Json& seconds : {Json(nullptr), Json("5"), Json(0), Json(-1), Json(1e9), Json(601),
                              Json::array({5}), Json(true)}) {
    const Json refused = client.ask({{"command", "trace"}, {"seconds", seconds}});
    EXPECT_EQ(refused["ok"], false) << seconds;
    EXPECT_THAT(refused["message"].get<std::string>(), HasSubstr("600"));
  }
  EXPECT_EQ(client.ask({{"command", "trace"}})["ok"], false);
}

TEST_F(TraceTest, LeavesNothingBehind) {
  controller.reset();
  const Footprint before = Footprint::now();
  controller.emplace(quiet());
  {
    const Service service = serve("faulty", "Faulty", {});
    Client client(runtime.socket());
    (void)client.finish({{"command", "trace"}, {"seconds", 0.01}});  // what came is never read
    Client other = begin();
    controller->shutdown();
  }
  controller.reset();
  EXPECT_TRUE(returns_to(before));
}

}  // namespace
}  // namespace forge::e2e
