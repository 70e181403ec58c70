// forge top.
#include <cmath>
#include <cstdio>
#include <deque>

#include "tools/forge/commands.h"
#include "tools/forge/connection.h"
#include "tools/forge/stats_view.h"
#include "tools/forge/terminal.h"

namespace forge::tool {
namespace {

constexpr int kEvents = 50;

/// What is shown: statistics, and the last events.
class View {
 public:
  explicit View(const std::string& controller)
      : connection_(find_controller(controller)), watch_(connection_) {}

  void ask_for_events(bool follow) {
    connection_.send({{"command", "events"}, {"follow", follow}, {"last", kEvents}});
  }
  /// False when the answer to ask_for_events() is complete.
  bool take(const Json& answer) {
    watch_.take(answer);
    for (const Json& event : answer.value("events", Json::array())) events_.push_back(event);
    while (events_.size() > kEvents) events_.pop_front();
    return !answer.value("done", false);
  }
  /// Takes all answers that have come.
  void take_all() {
    while (const auto answer = connection_.receive(std::chrono::milliseconds(0))) take(*answer);
  }
  std::vector<std::string> picture(Size size) {
    return picture_of(watch_.read(), {events_.begin(), events_.end()}, size.rows, size.columns);
  }
  Connection& connection() { return connection_; }

 private:
  Connection connection_;
  Watch watch_;
  std::deque<Json> events_;
};

void show_once(View& view) {
  view.ask_for_events(false);
  while (view.take(view.connection().answer())) {
  }
  for (const std::string& line : view.picture({0, 0})) std::printf("%s\n", line.c_str());
}

/// Until somebody has had enough; throws when the controller ends.
void show_on(View& view, const Terminal& terminal, std::chrono::nanoseconds interval) {
  view.ask_for_events(true);
  auto next = std::chrono::steady_clock::now();
  for (;;) {
    view.take_all();
    if (const auto now = std::chrono::steady_clock::now(); now >= next) next = now + interval;
    const Size size = terminal.size();
    auto lines = view.picture({size.rows - 1, size.columns});
    lines.resize(size.rows - 1);
    lines.emplace_back("q quits   p50 and p99 since the start, rates over the last minute");
    lines.back().resize(std::min(lines.back().size(), size.columns));
    terminal.show(lines);
    char key = 0;
    const auto woken = terminal.wait(next, view.connection().socket(), key);
    if (woken == Terminal::Woken::ended || key == 'q' || key == 'Q' || key == '\x03') return;
  }
}

}  // namespace

int top(const TopWanted& wanted) {
  View view(wanted.controller);
  if (wanted.once) {
    show_once(view);
    return 0;
  }
  const auto interval = std::chrono::nanoseconds(std::llround(wanted.interval_s * 1e9));
  const Terminal terminal;
  show_on(view, terminal, interval);
  return 0;
}

}  // namespace forge::tool
