// forge drain and forge scale.
#include <cstdio>

#include "tools/forge/commands.h"
#include "tools/forge/connection.h"
#include "tools/forge/text.h"

namespace forge::tool {
namespace {

/// Says how it gets on, on standard error, until it is done.
void see_through(Connection& connection, Json request) {
  connection.send(std::move(request));
  std::string last;
  for (;;) {
    const auto answer = connection.receive(std::chrono::hours(1));
    if (!answer) continue;
    require_ok(*answer);
    if (answer->value("done", false)) return;
    const std::string now = answer->value("progress", std::string());
    if (now != last) std::fprintf(stderr, "%s\n", printable(now).c_str());
    last = now;
  }
}

}  // namespace

int drain(const std::string& controller, const std::string& service) {
  Connection connection(find_controller(controller));
  see_through(connection, {{"command", "drain"}, {"service", service}});
  std::printf("service '%s' is drained and has stopped\n", printable(service).c_str());
  return 0;
}

int scale(const std::string& controller, const std::string& service, int count) {
  Connection connection(find_controller(controller));
  see_through(connection, {{"command", "scale"}, {"service", service}, {"count", count}});
  std::printf("service '%s' has %d replica%s\n", printable(service).c_str(), count,
              count == 1 ? "" : "s");
  return 0;
}

}  // namespace forge::tool
