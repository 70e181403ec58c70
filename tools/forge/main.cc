// forge: what one does with a running or broken service from a shell.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "replicas/flight.h"
#include "replicas/recording.h"
#include "tools/forge/commands.h"
#include "tools/forge/text.h"

namespace {

using namespace forge::tool;

/// What could not be done: there is no such controller, or it refused.
constexpr int kNotDone = 1;
/// What was asked for makes no sense.
constexpr int kBadCommand = 2;

int replay(const std::string& path) try {
  const auto recording = forge::replicas::load_recording(path);
  if (recording && !recording->program.empty()) {
    std::fprintf(stderr,
                 "forge: the actor is linked into %s; run  %s %s %s  (its main() calls "
                 "forge::init)\n",
                 recording->program.c_str(), recording->program.c_str(),
                 forge::replicas::kReplayFlag, path.c_str());
    return kBadCommand;
  }
  return forge::replicas::run_replay(path);
} catch (const forge::Error& error) {
  std::fprintf(stderr, "forge: %s\n", error.what());
  return kBadCommand;
}

bool begins_an_array(const std::string& text) {
  const std::size_t first = text.find_first_not_of(' ');
  return first != std::string::npos && text[first] == '[';
}

/// CLI11 takes "[1,2]" for two arguments, unless there is a blank before it.
std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool calls = !arguments.empty() && arguments[0] == "call";
  for (std::string& argument : arguments) {
    if (calls && begins_an_array(argument)) argument.insert(0, 1, ' ');
  }
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  return arguments;
}

/// Everything a command line can say.
struct Wanted {
  std::string path, controller, service;
  std::string folder = forge::replicas::default_keep_folder();
  std::size_t reports = 1;
  bool json = false;
  int count = 0;
  EventsWanted events;
  TopWanted top;
  TraceWanted trace;
  CallWanted call;
};

using Run = std::function<int()>;

CLI::App* add(CLI::App& app, const char* name, const char* what, Run& chosen, Run run) {
  CLI::App* const command = app.add_subcommand(name, what);
  command->callback([&chosen, run = std::move(run)] { chosen = run; });
  return command;
}

void add_looking(CLI::App& app, Wanted& w, Run& run) {
  const auto whose = [&](CLI::App* command) {
    command->add_option("--controller", w.controller,
                        "Process id of the controller, if several run (forge ps shows them)");
  };
  CLI::App* command = add(app, "ps", "Controllers of this user and their services", run,
                          [&] { return ps(w.json); });
  command->add_flag("--json", w.json, "As JSON");

  command = add(app, "top", "Live view of a controller; q quits", run, [&] {
    w.top.controller = w.controller;
    return top(w.top);
  });
  whose(command);
  command->add_flag("--once", w.top.once, "One picture, for scripts and logs");
  command->add_option("--interval", w.top.interval_s, "Seconds between pictures")
      ->capture_default_str()
      ->check(CLI::Range(0.05, 3600.0));

  command = add(app, "stats", "A controller's statistics, once", run,
                [&] { return stats(w.controller, w.service, w.json); });
  whose(command);
  command->add_option("service", w.service, "Of this one only");
  command->add_flag("--json", w.json, "As JSON; numbers have their unit in their name");

  command = add(app, "events", "What has happened to services", run, [&] {
    w.events.json = w.json;
    return events(w.controller, w.events);
  });
  whose(command);
  command->add_flag("-f,--follow", w.events.follow, "Go on until the controller ends");
  command->add_option("--last", w.events.last, "So many that have been already")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  command->add_flag("--json", w.json, "One JSON object a line");

  command = add(app, "trace", "Records what requests do, for ui.perfetto.dev", run,
                [&] { return trace(w.controller, w.trace); });
  whose(command);
  command->add_option("--seconds", w.trace.seconds, "For so long")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 600.0));
  command->add_option("--output", w.trace.output, "File to write")->capture_default_str();
  command->footer("Meanwhile each call is timed. chrome://tracing reads the file, too.");
}

void add_acting(CLI::App& app, Wanted& w, Run& run) {
  CLI::App* command = add(app, "drain", "Lets a service finish what it has, and stops it", run,
                          [&] { return drain(w.controller, w.service); });
  command->add_option("service", w.service, "Its name")->required();
  command->add_option("--controller", w.controller, "Process id of its controller");
  command->footer("New calls answer Stopped. What runs has the controller's shutdown_grace.");

  command = add(app, "scale", "Gives a service more or fewer replicas", run,
                [&] { return scale(w.controller, w.service, w.count); });
  command->add_option("service", w.service, "Its name")->required();
  command->add_option("replicas", w.count, "Between its min_replicas and max_replicas")
      ->required()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--controller", w.controller, "Process id of its controller");

  command = add(app, "call", "Starts one replica of an actor and calls an endpoint", run, [&] {
    for (std::string& argument : w.call.arguments) {
      if (begins_an_array(argument)) argument.erase(0, 1);
    }
    return call(w.call);
  });
  command->add_option("plugin", w.call.plugin, "Its file")->required();
  command->add_option("actor", w.call.actor, "Its name")->required();
  command->add_option("endpoint", w.call.endpoint, "Its name")->required();
  command->add_option("arguments", w.call.arguments, "JSON each; text may do without quotes");
  command->add_option("--init", w.call.init, "Arguments of the constructor, as a JSON array")
      ->capture_default_str();
  command->add_option("--timeout", w.call.timeout_s, "Seconds for the call; 0: as long as it takes")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e9));
  command->footer("Before numbers below zero:  forge call PLUGIN Actor endpoint -- -5");

  command = add(app, "replay", "Runs a request that killed workers once more, in this process", run,
                [&] { return replay(w.path); });
  command->add_option("file", w.path, "That the PoisonRequest named")->required();
  command->footer("Under a debugger:  gdb --args forge replay FILE");

  command = add(app, "postmortem", "What workers were doing when they crashed, newest first", run,
                [&] { return postmortem(w.folder, w.reports); });
  command->add_option("--last", w.reports, "So many of them")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--dir", w.folder, "Where ControllerOptions::poison_dir says")
      ->capture_default_str();
}

}  // namespace

int main(int argc, char** argv) try {
  CLI::App app{"Looks into forge services.", "forge"};
  app.require_subcommand(1);
  app.footer("Measuring: forge-bench --help");
  Wanted wanted;
  Run run;
  add_looking(app, wanted, run);
  add_acting(app, wanted, run);
  try {
    app.parse(arguments_of(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadCommand;
  }
  return run();
} catch (const forge::Error& error) {
  std::fprintf(stderr, "forge: %s\n", printable(error.what()).c_str());
  return kNotDone;
} catch (const nlohmann::json::exception&) {
  std::fprintf(stderr, "forge: the controller sent what no controller sends\n");
  return kNotDone;
} catch (const std::exception& error) {
  std::fprintf(stderr, "forge: %s\n", printable(error.what()).c_str());
  return kBadCommand;
}
