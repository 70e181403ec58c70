// forge ps, forge stats and forge events.
#include <cstdio>

#include "tools/forge/commands.h"
#include "tools/forge/connection.h"
#include "tools/forge/stats_view.h"
#include "tools/forge/text.h"

namespace forge::tool {
namespace {

void print(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
}

std::string number(const Json& json, const char* key) {
  return std::to_string(json.value(key, std::uint64_t{0}));
}

void add_controller(Table& table, const std::string& name, const Json& who, const Json& services) {
  const std::string what = who.value("program", std::string("?"));
  const std::string title = who.value("name", std::string());
  const std::string program = title.empty() ? what : what + " (" + title + ")";
  const std::string age = format_age(who.value("uptime_s", 0.0));
  if (services.empty()) table.add({name, program, age, "-", "", "no service"});
  for (const Json& service : services) {
    table.add({name, program, age, service.value("name", std::string()),
               service.value("actor", std::string()), service.value("state", std::string()),
               number(service, "healthy") + "/" + number(service, "replicas"),
               number(service, "procs"), number(service, "open_calls"),
               format_age(service.value("uptime_s", 0.0))});
  }
}

/// Why replicas are not there, a line each.
void add_troubles(std::vector<std::string>& lines, const Json& services) {
  for (const Json& service : services) {
    for (const Json& replica : service.value("troubles", Json::array())) {
      lines.push_back(printable(
          service.value("name", std::string()) + "/" + number(replica, "idx") + " is " +
          replica.value("state", std::string()) + ": " + replica.value("reason", std::string())));
    }
  }
}

}  // namespace

int ps(bool json) {
  const auto found = core::find_sockets();
  Json all = Json::array();
  Table table({">controller", "program", ">up", "service", "actor", "state", ">replicas", ">procs",
               ">open calls", ">serving"});
  std::vector<std::string> troubles;
  std::size_t answered = 0;
  for (const auto& one : found) {
    try {
      Connection connection(one);
      connection.send({{"command", "hello"}});
      Json who = connection.answer()["controller"];
      connection.send({{"command", "services"}});
      Json services = connection.answer()["services"];
      add_controller(table, one.path.stem(), who, services);
      add_troubles(troubles, services);
      who["services"] = std::move(services);
      all.push_back(std::move(who));
      ++answered;
    } catch (const Error& error) {  // it may be on its way out; the others count
      std::fprintf(stderr, "forge: %s\n", printable(error.what()).c_str());
    }
  }
  if (json) {
    std::printf("%s\n", all.dump(2).c_str());
  } else if (answered != 0) {
    print(table.lines());
    print(troubles);
  }
  if (answered == 0) {
    std::fprintf(stderr,
                 "forge: no controller of this user is running; a program with a "
                 "forge::Controller shows up here while it runs\n");
  }
  return answered == 0 ? 1 : 0;
}

int stats(const std::string& controller, const std::string& service, bool json) {
  Connection connection(find_controller(controller));
  Watch watch(connection);
  Json statistics = watch.read();
  if (!service.empty()) {
    Json wanted = Json::array();
    std::string names;
    for (Json& one : statistics["services"]) {
      const std::string name = one.value("name", std::string());
      names += (names.empty() ? "" : ", ") + name;
      if (name == service) wanted.push_back(std::move(one));
    }
    if (wanted.empty()) {
      throw InvalidArgument("there is no service '" + service + "' in " + connection.name() +
                            "; it has: " + (names.empty() ? "none" : names));
    }
    statistics["services"] = std::move(wanted);
  }
  if (json) {
    statistics["unix_ms"] = unix_ms_of(statistics.value("at_ns", std::int64_t{0}));
    std::printf("%s\n", statistics.dump(2).c_str());
  } else {
    print(view_of(statistics));
  }
  return 0;
}

std::string event_line(const Json& event, bool date) {
  std::string line = format_time(unix_ms_of(event.value("at_ns", std::int64_t{0})), date);
  const auto column = [&](std::string text, std::size_t width) {
    text.resize(std::max(text.size(), width), ' ');
    line += "  " + text;
  };
  const std::string level = event.value("level", std::string());
  column(level == "warning" || level == "error" ? level : "", 7);
  column(event.value("kind", std::string()), 11);
  column(event.value("text", std::string()), 0);
  return printable(line);
}

int events(const std::string& controller, const EventsWanted& wanted) {
  Connection connection(find_controller(controller));
  connection.send({{"command", "events"}, {"follow", wanted.follow}, {"last", wanted.last}});
  for (;;) {
    auto answer = connection.receive(std::chrono::hours(1));
    if (!answer) continue;
    require_ok(*answer);
    if (const auto missed = answer->value("missed", std::uint64_t{0}); missed != 0)
      std::fprintf(stderr, "(%llu older ones are gone)\n", static_cast<unsigned long long>(missed));
    for (Json& event : answer->at("events")) {
      event["unix_ms"] = unix_ms_of(event.value("at_ns", std::int64_t{0}));
      std::printf("%s\n",
                  wanted.json ? core::dump(event).c_str() : event_line(event, true).c_str());
    }
    std::fflush(stdout);
    if (answer->value("done", false)) return 0;
  }
}

}  // namespace forge::tool
