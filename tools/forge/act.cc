// forge drain, forge scale and forge trace.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/text_segment.h"
#include "tools/forge/commands.h"
#include "tools/forge/connection.h"
#include "tools/forge/text.h"

namespace forge::tool {
namespace {

/// Says how it gets on, on standard error, until it is done. Its last answer.
Json see_through(Connection& connection, Json request) {
  connection.send(std::move(request));
  std::string last;
  for (;;) {
    auto answer = connection.receive(std::chrono::hours(1));
    if (!answer) continue;
    require_ok(*answer);
    if (answer->value("done", false)) return std::move(*answer);
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

int trace(const std::string& controller, const TraceWanted& wanted) {
  const auto cannot_write = [&] {
    return InvalidArgument("'" + wanted.output +
                           "' cannot be written; name another file with --output");
  };
  // Now, and not when somebody has waited for what is to be written there.
  const auto folder = std::filesystem::absolute(wanted.output).parent_path();
  const bool there = ::access(wanted.output.c_str(), F_OK) == 0;
  if (::access(there ? wanted.output.c_str() : folder.c_str(), W_OK) != 0 ||
      std::filesystem::is_directory(wanted.output))
    throw cannot_write();
  Connection connection(find_controller(controller));
  const Json answer = see_through(connection, {{"command", "trace"}, {"seconds", wanted.seconds}});
  const std::string text =
      core::shared_text(connection.take_fd(), answer.value("bytes", std::uint64_t{0})).value();
  std::ofstream file(wanted.output, std::ios::binary);
  file << text;
  if (!file.flush()) throw cannot_write();
  const auto number = [&](const char* key) {
    return std::to_string(answer.value(key, std::uint64_t{0}));
  };
  std::printf("%s: %s requests and %s events; open it at ui.perfetto.dev or chrome://tracing\n",
              printable(wanted.output).c_str(), number("requests").c_str(),
              number("events").c_str());
  if (number("dropped_requests") != "0")
    std::fprintf(stderr, "forge: there was no room for %s more requests; record fewer seconds\n",
                 number("dropped_requests").c_str());
  if (number("missed_events") != "0")
    std::fprintf(stderr, "forge: %s older events are gone\n", number("missed_events").c_str());
  return 0;
}

}  // namespace forge::tool
